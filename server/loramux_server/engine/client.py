"""RoutedEngine: vLLM's engine client with a lease around, and a tally of, everything that it generates."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any, NoReturn

from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_adapters.errors import AdapterError, VersionNotFound, VersionQuarantined
from loramux_adapters.models import VersionId
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.residency.ports import Lease
from loramux_server.engine.vllm_compat import GracefulHTTPError
from loramux_server.errors import from_adapter_error
from loramux_server.metering.charging import Accounts
from loramux_server.metering.cost_allocation import Work
from loramux_server.metering.usage_record import Route, RunFacts
from loramux_server.request_context import current_request

BASE = Route()
CORRUPTION = "it computed values that are no numbers"


class RoutedEngine:
    """An `EngineClient` for vLLM's OpenAI handlers; what is not here is the wrapped engine's own.

    A generate on an adapter starts when its version is in the engine's host memory and not before, so vLLM never
    reads a disk inside a step and never evicts on its own. A version that computes NaN is handed to `quarantine` with
    the reason, which must keep new requests from it at once. `accounts` bill what a generate does in the engine.
    """

    def __init__(
        self, engine: Any, pool: AdapterPool, quarantine: Callable[[VersionId, str], None], accounts: Accounts
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._quarantine = quarantine
        self._accounts = accounts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Refuse with a real HTTP status what could not run: called before a stream has begun."""
        self._engine.check_admission(n, request_id)
        with _refusals():
            for version in current_request.get().versions.values():
                self._pool.check(version)

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        **options: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run on the base or on a leased version, and leave the run's facts with the HTTP request."""
        version = VersionId.parse(lora_request.lora_name) if lora_request else None
        request = current_request.get()
        run = request.begin_run(Route(version.name, version.digest) if version else BASE)
        tally, lease = Tally(prompt, sampling_params), None
        try:
            with _refusals():
                lease = await self._pool.lease(version) if version else None
            outputs = self._engine.generate(prompt, sampling_params, request_id, lora_request=lora_request, **options)
            async with aclosing(outputs):
                with self._accounts.in_engine(request.share, tally.work):
                    async for output in outputs:
                        tally.add(output)
                        if tally.is_corrupted:
                            self._give_up(version)
                        yield output
        finally:
            if lease:
                lease.release()
            run.finish(tally.facts(lease))

    def _give_up(self, version: VersionId | None) -> NoReturn:
        """End a request whose logits are no numbers: what it got and what would follow is garbage."""
        if version is None:
            raise RuntimeError("The base computed values that are no numbers.")
        self._quarantine(version, CORRUPTION)
        with _refusals():
            raise VersionQuarantined(f"{version} was taken out of service: {CORRUPTION}.")


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the adapters' room refuses into an exception for which vLLM's handlers keep the status.

    The refusal itself stays with the request: the error envelope takes its code and Retry-After from there.
    """
    try:
        yield
    except AdapterError as error:
        refusal = from_adapter_error(error)
        if isinstance(error, VersionNotFound):  # it was removed after the name was resolved
            refusal.code, refusal.param = "model_not_found", "model"
        current_request.get().refusal = refusal
        raise GracefulHTTPError(refusal.message, HTTPStatus(refusal.status)) from error


class Tally:
    """Adds up one generate's outputs; per token it costs an addition."""

    def __init__(self, prompt: Any, params: SamplingParams) -> None:
        self._input_tokens = len(prompt.get("prompt_token_ids", ())) if isinstance(prompt, dict) else 0
        self._is_delta = params.output_kind is RequestOutputKind.DELTA
        self._sequences = params.n
        self._tokens: dict[int, int] = {}
        self._last: RequestOutput | None = None

    def add(self, output: RequestOutput) -> None:
        """Count what `output` brings: new tokens in a stream of deltas, all tokens so far otherwise."""
        self._last = output
        for completion in output.outputs:
            before = self._tokens.get(completion.index, 0) if self._is_delta else 0
            self._tokens[completion.index] = before + len(completion.token_ids)

    def work(self) -> Work:
        """What the engine has done so far; a prompt's part of it is known with the first token."""
        if self._last is None:
            return Work()
        return Work(self._input_tokens - (self._last.num_cached_tokens or 0), sum(self._tokens.values()))

    @property
    def is_corrupted(self) -> bool:
        """Whether the engine saw values that are no numbers, as far as the last output tells."""
        return bool(self._last and self._last.metrics and self._last.metrics.is_corrupted)

    def facts(self, lease: Lease | None) -> RunFacts:
        """What is known of the run now, be it finished or cut off; moments are seconds from the call of generate."""
        counts: dict[str, Any] = {
            "input_tokens": self._input_tokens,
            "output_tokens": sum(self._tokens.values()),
            "sequences": self._sequences,
            "lease_wait": lease.waited if lease else 0.0,
            "cold": bool(lease and lease.cold),
        }
        stats = self._last.metrics if self._last else None
        if self._last is None or stats is None or not stats.first_token_ts:
            return RunFacts(**counts)
        first_token = counts["lease_wait"] + stats.first_token_latency
        return RunFacts(
            **counts,
            cached_tokens=self._last.num_cached_tokens or 0,
            queue=max(0.0, stats.scheduled_ts - stats.queued_ts),
            first_token=first_token,
            last_token=first_token + stats.last_token_ts - stats.first_token_ts,
            finish_reason=next((out.finish_reason for out in self._last.outputs if out.finish_reason), None),
            preemptions=getattr(stats, "num_preemptions", 0),  # vLLM 0.26 does not count them
            corrupted=stats.is_corrupted,
        )
