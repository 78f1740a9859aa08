"""A deterministic fake of vLLM's engine client: no weights, no processes.

It uses vLLM's real configuration, tokenizer and input processing, so everything above `generate` is the same as in
production. Its answers name their route, and it fails on what loramux must never do: generate on a version that is not
loaded, load more versions than `max_cpu_loras`, or use the engine while it is asleep.
"""

import asyncio
import math
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.logprobs import Logprob
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers import renderer_from_config
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.metrics.stats import RequestStateStats

MAX_LOGPROBS = 20
"""vLLM's default."""


class FakeEngine:
    """An `EngineClient` that answers `[ROUTE] 0 1 2 ...`, one token per `seconds_per_token`."""

    def __init__(self, arguments: Namespace, seconds_per_token: float = 0.0, seconds_per_load: float = 0.0) -> None:
        self.vllm_config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(UsageContext.OPENAI_API_SERVER)
        self.model_config = self.vllm_config.model_config
        self.renderer = renderer_from_config(self.vllm_config)
        self.input_processor = InputProcessor(self.vllm_config, self.renderer)
        self.capacity = self.vllm_config.lora_config.max_cpu_loras
        self.seconds_per_token = seconds_per_token
        self.seconds_per_load = seconds_per_load
        self.refused_loads: set[str] = set()
        self.loads: list[str] = []
        self.loading: dict[int, tuple[str, float]] = {}
        self.loaded: dict[int, str] = {}
        self.without_effect: set[str] = set()
        self.corrupt: set[str] = set()
        self.running = 0
        self.request_states: dict[str, SimpleNamespace] = {}
        self._requests = 0
        self.throttled_loads = 0
        self.errored = False
        self.asleep = False
        self.sleeps = 0
        self.sleep_errors: list[Exception] = []
        self.wake_errors: list[Exception] = []
        self.backup = (0, 1, True)

    @property
    def is_running(self) -> bool:
        """Whether it has not died."""
        return not self.errored

    @property
    def is_stopped(self) -> bool:
        """Whether it has died."""
        return self.errored

    @property
    def dead_error(self) -> BaseException:
        """The error of every call after `die`."""
        error: BaseException = EngineDeadError()
        return error

    def die(self) -> None:
        """Fail all running and later generate calls, as after the death of the engine process."""
        self.errored = True

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Admit everything, as vLLM does unless it is given limits."""

    async def get_supported_tasks(self) -> tuple[str, ...]:
        """Return the task of generation."""
        return ("generate",)

    async def is_tracing_enabled(self) -> bool:
        """Return False."""
        return False

    async def do_log_stats(self) -> None:
        """Do nothing."""

    async def reset_mm_cache(self) -> None:
        """Do nothing."""

    async def check_health(self) -> None:
        """Check that it has not died.

        Raises:
            EngineDeadError: it has.
        """
        if self.errored:
            raise self.dead_error

    def shutdown(self, timeout: float | None = None) -> None:
        """Do nothing."""

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Fall asleep, or fail with the next one of `sleep_errors`."""
        await asyncio.sleep(0)
        self._fail_with(self.sleep_errors)
        if self.running or self.loading or (level, mode) != (1, "wait"):
            raise AssertionError("falls asleep while it is in use")
        self.asleep = True
        self.sleeps += 1

    async def wake_up(self, tags: list[str] | None = None) -> bool:
        """Wake up, or fail with the next one of `wake_errors`."""
        await asyncio.sleep(0)
        self._fail_with(self.wake_errors)
        self.asleep = False
        return tags is None

    def _fail_with(self, errors: list[Exception]) -> None:
        if errors:
            raise errors.pop(0)

    def _check_awake(self) -> None:
        if self.asleep:
            raise AssertionError("used while it is asleep")

    def backup_bytes(self) -> tuple[int, int, bool]:
        """Return the host memory that a sleep takes, what is free, and whether it is kept."""
        return self.backup

    async def collective_rpc(
        self, method: str, _timeout: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Call one of the worker methods below; returns the result of its single worker."""
        return [getattr(self, method)(*args, **kwargs)]

    @property
    def output_processor(self) -> "FakeEngine":
        """Stands in for vLLM's OutputProcessor."""
        return self

    def get_num_unfinished_requests(self) -> int:
        """Return the number of running requests."""
        return self.running

    def start_load(self, name: str, number: int, _path: str, *, throttle: bool, seconds: float) -> bool:
        """Start to load a version."""
        self._check_awake()
        self.throttled_loads += throttle
        self.loading[number] = (name, time.monotonic() + self.seconds_per_load)
        return self.is_prepared(number, seconds)

    def is_prepared(self, number: int, _seconds: float) -> bool:
        """Return whether the load is done; fails if its name is in `refused_loads`."""
        name, ready_at = self.loading[number]
        if name in self.refused_loads:
            raise RuntimeError(f"refused {name}")
        return time.monotonic() >= ready_at

    def commit_load(self, number: int, seconds: float) -> bool:
        """Make a prepared version available."""
        self._check_awake()
        name, _ = self.loading.pop(number)
        self.loads.append(name)
        self.loaded[number] = name
        if len(self.loaded) > self.capacity:
            raise AssertionError(f"more than {self.capacity} versions in the engine: vLLM would evict one by itself")
        return self.fill_slot(number, seconds)

    def fill_slot(self, _number: int, _seconds: float) -> bool:
        """Return True: there are no slots to fill."""
        return True

    def cancel_load(self, number: int) -> None:
        """Cancel a load."""
        self.loading.pop(number, None)

    def adapters_in_slots(self) -> list[int]:
        """Return loaded versions, at most `max_loras`."""
        return sorted(self.loaded)[: self.vllm_config.lora_config.max_loras]

    def growth_bytes(self, _rank: int) -> tuple[int, int]:
        """Return the memory for slots of a rank, and the free memory: there is always enough."""
        return 0, 1

    def set_max_rank(self, rank: int) -> None:
        """Set the largest rank of adapters."""
        self._check_awake()
        self.vllm_config.lora_config.max_lora_rank = rank

    async def remove_lora(self, lora_id: int) -> bool:
        """Unload a version; returns whether it was loaded."""
        return self.loaded.pop(lora_id, None) is not None

    async def list_loras(self) -> set[int]:
        """Return the ids of the loaded versions."""
        return set(self.loaded)

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        **_options: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answer `[ROUTE] 0 1 2 ...` to any prompt."""
        self._check_awake()
        self._check_loaded(lora_request)
        name = lora_request.lora_name if lora_request else ""
        stats = RequestStateStats(arrival_time=time.time(), queued_ts=time.monotonic(), scheduled_ts=time.monotonic())
        generated: list[list[int]] = [[] for _ in range(sampling_params.n)]
        self.running += 1
        states = self._add_states(request_id, prompt, sampling_params)
        try:
            answer = self._answer_tokens(lora_request)
            while not all(len(tokens) == sampling_params.max_tokens for tokens in generated):
                await asyncio.sleep(self.seconds_per_token)
                await self.check_health()
                self._check_loaded(lora_request)
                token = next(answer)
                for tokens in generated:
                    tokens.append(token)
                _update_stats(stats, len(generated[0]))
                stats.is_corrupted = name in self.corrupt
                finished = len(generated[0]) == sampling_params.max_tokens
                ended = FinishReason.LENGTH if finished else None
                outputs = [EngineCoreOutput(each, [token], finish_reason=ended) for each in states]
                self.process_outputs(outputs, self._step_time())
                if finished or sampling_params.output_kind is not RequestOutputKind.FINAL_ONLY:
                    yield self._output(request_id, prompt, generated, sampling_params, stats, lora_request)
        finally:
            self.running -= 1
            for each in states:
                self.request_states.pop(each, None)

    def _step_time(self) -> float:
        """Return the time of the present step, which is the same for all requests that run at once."""
        step = self.seconds_per_token or 1e-9
        return time.monotonic() // step * step

    def process_outputs(self, outputs: Sequence[EngineCoreOutput], _timestamp: float) -> None:
        """Do what vLLM's output processor does with the states of requests, for each step."""
        for output in outputs:
            state = self.request_states.get(output.request_id)
            if state is not None:
                state.is_prefilling = False
            if output.finished:
                self.request_states.pop(output.request_id, None)

    def _add_states(self, request_id: str, prompt: Any, params: SamplingParams) -> list[str]:
        """Add the state of each sequence, under ids that differ from the client's as vLLM's do; returns these ids."""
        self._requests += 1
        ids = [f"{index}_{request_id}-{self._requests}" for index in range(params.n)]
        for each in ids:
            self.request_states[each] = SimpleNamespace(
                external_req_id=request_id, prompt_len=len(prompt["prompt_token_ids"]), is_prefilling=True
            )
        return ids

    def _check_loaded(self, lora_request: LoRARequest | None) -> None:
        if lora_request is not None and lora_request.lora_int_id not in self.loaded:
            raise AssertionError(f"{lora_request.lora_name} generates without being loaded")

    def _answer_tokens(self, lora_request: LoRARequest | None) -> Iterator[int]:
        route = lora_request.lora_name if lora_request else "base"
        yield from self.renderer.tokenizer.encode(f"[{route}]", add_special_tokens=False)
        number = 0
        while True:
            yield from self.renderer.tokenizer.encode(f" {number}", add_special_tokens=False)
            number += 1

    def _prompt_logprobs(self, tokens: list[int], params: SamplingParams, lora_request: LoRARequest | None) -> Any:
        """One value for all tokens of a route, different for each route."""
        if params.prompt_logprobs is None:
            return None
        name = lora_request.lora_name if lora_request else ""
        has_effect = name and name not in self.without_effect
        value = math.nan if name in self.corrupt else -2.0 if has_effect else -1.0
        return [None, *({token: Logprob(value)} for token in tokens[1:])]

    def _output(
        self,
        request_id: str,
        prompt: Any,
        generated: list[list[int]],
        params: SamplingParams,
        stats: RequestStateStats,
        lora_request: LoRARequest | None,
    ) -> RequestOutput:
        finished = len(generated[0]) == params.max_tokens
        new_tokens = slice(-1, None) if params.output_kind is RequestOutputKind.DELTA else slice(None)
        return RequestOutput(
            request_id=request_id,
            prompt=None,
            prompt_token_ids=list(prompt["prompt_token_ids"]),
            prompt_logprobs=self._prompt_logprobs(prompt["prompt_token_ids"], params, lora_request),
            outputs=[
                CompletionOutput(
                    index=index,
                    text=self.renderer.tokenizer.decode(tokens[new_tokens]),
                    token_ids=tokens[new_tokens],
                    cumulative_logprob=None,
                    logprobs=_logprobs(tokens[new_tokens], params.logprobs),
                    finish_reason="length" if finished else None,
                )
                for index, tokens in enumerate(generated)
            ],
            finished=finished,
            metrics=stats,
            lora_request=lora_request,
            num_cached_tokens=0,
        )


def _logprobs(tokens: list[int], count: int | None) -> list[dict[int, Logprob]] | None:
    """Return the log-probabilities of `count` tokens at each position: the chosen one, and the next ones."""
    if count is None:
        return None
    if count > MAX_LOGPROBS:  # vLLM refuses it too; such lists could take all memory
        raise VLLMValidationError(f"{count} log-probabilities are more than {MAX_LOGPROBS}.", parameter="logprobs")
    return [{token + rank: Logprob(-1.0 - rank, rank + 1) for rank in range(max(1, count))} for token in tokens]


def _update_stats(stats: RequestStateStats, tokens: int) -> None:
    stats.num_generation_tokens, stats.last_token_ts = tokens, time.monotonic()
    if tokens == 1:
        stats.first_token_ts, stats.first_token_latency = time.monotonic(), time.time() - stats.arrival_time
