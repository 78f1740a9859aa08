"""Wraps vLLM's engine client: leases adapters, and measures and meters every run."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any, NoReturn

from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from loramux_adapters.errors import AdapterError, VersionNotFound, VersionQuarantined
from loramux_adapters.models import VersionId
from loramux_adapters.residency.pool import AdapterPool
from loramux_adapters.residency.ports import Lease
from loramux_server.engine.beam_search import begin_run
from loramux_server.engine.fair_admission import flow_of
from loramux_server.engine.project_isolation import salted
from loramux_server.engine.step_observer import RunProgress, StepObserver
from loramux_server.engine.vllm_compat import GracefulHTTPError
from loramux_server.errors import EngineDied, LoramuxError, from_adapter_error
from loramux_server.fairness.admission import FairAdmission, Turn
from loramux_server.fairness.window import Demand
from loramux_server.limits.limiter import RunDemand
from loramux_server.metering.charging import ChargingMeter
from loramux_server.metering.usage_record import Route, RunStats
from loramux_server.request_context import RequestContext, Run, current_request

Prove = Callable[[SamplingParams], Awaitable[SamplingParams]]
"""Returns parameters whose grammar the engine can compile; raises a LoramuxError if it can't."""

StartRun = Callable[[RequestContext, RunDemand], Awaitable[None]]
"""Reserves a run of a request; raises a LoramuxError if a limit is reached."""

BASE_ROUTE = Route()
CORRUPTION_REASON = "it computed NaN or infinite values"


class LeasingEngineClient:
    """An `EngineClient` for vLLM's OpenAI handlers; delegates everything else to the wrapped engine.

    A run on an adapter starts only once the version is in the engine's host memory, so vLLM never reads a disk in a
    step and never evicts by itself. `quarantine(version, reason)` is called when a version computes NaN or infinite
    values, and must block new requests immediately. `meter` allocates the engine's cost to the request, and
    `request_started` is called before each run. `check_engine` raises an AdapterError if the engine can't run now, and
    `start_run` a LoramuxError if a limit of the request is reached. `fairness` decides whose run is next.
    """

    def __init__(
        self,
        engine: Any,
        pool: AdapterPool,
        quarantine: Callable[[VersionId, str], None],
        meter: ChargingMeter,
        request_started: Callable[[], None] = lambda: None,
        check_engine: Callable[[], None] = lambda: None,
        start_run: StartRun | None = None,
        prove: Prove | None = None,
        *,
        share_prefix_cache: bool = False,
        fairness: FairAdmission | None = None,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._quarantine = quarantine
        self._observer = StepObserver(engine.output_processor, meter)
        self._request_started = request_started
        self._check_engine, self._start_run = check_engine, start_run
        self._prove = prove
        self._shares_prefix_cache, self._fairness = share_prefix_cache, fairness or FairAdmission(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Refuse a request that could not run; vLLM's handlers call this before the response starts.

        Raises:
            GracefulHTTPError: the adapter of the request can't be served now, or the queue is full.
        """
        self._engine.check_admission(n, request_id)
        with _as_http_errors():
            self._check_engine()
            request = current_request.get()
            for version in request.versions.values():
                self._pool.check(version)
            self._fairness.check(flow_of(request, next(iter(request.versions.values()), None)))

    async def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        **options: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run on the base or on a leased version; adds the run's statistics to the current request.

        Raises:
            GracefulHTTPError: a limit is reached, the version can't be leased, or it computed NaN or infinite values.
            RuntimeError: the base computed NaN or infinite values.
        """
        version = VersionId.parse(lora_request.lora_name) if lora_request else None
        request = current_request.get()
        sampling_params = await self._proven(sampling_params)
        self._request_started()
        accumulator, lease, turn = RunAccumulator(prompt, sampling_params), None, Turn()
        prompt = prompt if self._shares_prefix_cache else salted(prompt, request.principal)
        run = begin_run(Route(version.name, version.digest) if version else BASE_ROUTE)
        try:
            with _as_http_errors():
                if isinstance(run, Run):  # a beam search is reserved as a whole
                    await self.start_run(accumulator.demand(version, sampling_params))
                flow = flow_of(request, version, options.get("priority", 0))
                turn = await self._fairness.enter(flow, *accumulator.size(version))
                accumulator.progress.turn = turn
                lease = await self._pool.lease(version) if version else None
                self._check_engine()  # it would keep the request until it wakes up
            with self._observer.observing(request_id, request.cost_share, accumulator.progress) as engine_id:
                outputs = self._engine.generate(
                    prompt, sampling_params, engine_id, lora_request=lora_request, **options
                )
                async with aclosing(outputs):
                    with _as_http_errors():
                        async for output in outputs:
                            accumulator.add(output)
                            if accumulator.is_corrupted:
                                self._fail_corrupted(version)
                            yield output
        finally:
            if lease:
                lease.release()
            turn.leave()
            run.finish(accumulator.stats(lease, turn.waited))

    async def start_run(self, demand: RunDemand) -> None:
        """Reserve what a run of the current request may need of its limits.

        Raises:
            GracefulHTTPError: a limit is reached.
        """
        with _as_http_errors():
            if self._start_run:
                await self._start_run(current_request.get(), demand)

    async def _proven(self, params: SamplingParams) -> SamplingParams:
        with _as_http_errors():
            return await self._prove(params) if self._prove else params

    def _fail_corrupted(self, version: VersionId | None) -> NoReturn:
        """End a run whose logits are NaN or infinite: its output is meaningless."""
        if version is None:
            raise RuntimeError("The base computed NaN or infinite values.")
        self._quarantine(version, CORRUPTION_REASON)
        with _as_http_errors():
            raise VersionQuarantined(f"{version} was quarantined: {CORRUPTION_REASON}.")


@contextmanager
def _as_http_errors() -> Iterator[None]:
    """Convert an error of ours, or the engine's death, to an exception whose HTTP status vLLM's handlers keep.

    The error is also stored in the request context, where the error envelope reads its code and Retry-After.
    """
    try:
        yield
    except AdapterError as error:
        refusal = from_adapter_error(error)
        if isinstance(error, VersionNotFound):  # removed after the name was resolved
            refusal.code, refusal.param = "model_not_found", "model"
        current_request.get().refusal = refusal
        raise GracefulHTTPError(refusal.message, HTTPStatus(refusal.status)) from error
    except EngineDeadError as error:
        current_request.get().refusal = died = EngineDied()
        raise GracefulHTTPError(died.message, HTTPStatus(died.status)) from error
    except LoramuxError as error:
        current_request.get().refusal = error
        raise GracefulHTTPError(error.message, HTTPStatus(error.status)) from error


class RunAccumulator:
    """Accumulates the statistics of one run from its outputs; costs one addition per token.

    `progress` has what the engine did for the run, also where no output shows it: a plain request that is cancelled.
    """

    def __init__(self, prompt: Any, params: SamplingParams) -> None:
        self._prompt_tokens = len(prompt.get("prompt_token_ids", ())) if isinstance(prompt, dict) else 0
        self._is_delta = params.output_kind is RequestOutputKind.DELTA
        self._sequences, self._max_tokens = params.n, params.max_tokens
        self._token_counts: dict[int, int] = {}
        self._last: RequestOutput | None = None
        self.progress = RunProgress(params.n)

    def demand(self, version: VersionId | None, params: SamplingParams) -> RunDemand:
        """Return the tokens that the run needs at most."""
        adapter = version.name if version else None
        return RunDemand(adapter, self._prompt_tokens, params.max_tokens or 1, params.n)

    def size(self, version: VersionId | None) -> tuple[Demand, int | None, RunProgress]:
        """Return what the run takes of the engine, the most tokens of each answer, and its progress."""
        return Demand(self._prompt_tokens, self._sequences, version), self._max_tokens, self.progress

    def add(self, output: RequestOutput) -> None:
        """Count the tokens of `output`: new ones if the output kind is DELTA, else all so far."""
        self._last = output
        for completion in output.outputs:
            before = self._token_counts.get(completion.index, 0) if self._is_delta else 0
            self._token_counts[completion.index] = before + len(completion.token_ids)

    @property
    def _input_tokens(self) -> int:
        """The prompt's tokens, once: 0 before the engine has begun to compute them."""
        return self._prompt_tokens if self._last or self.progress.has_started else 0

    @property
    def _output_tokens(self) -> int:
        """The tokens of the answer, or of an aborted run all that the engine generated."""
        shown = sum(self._token_counts.values())
        return shown if self._last and self._last.finished else max(shown, self.progress.output_tokens)

    @property
    def _cached_tokens(self) -> int:
        cached = self.progress.cached_tokens
        return ((self._last and self._last.num_cached_tokens) or 0) if cached is None else cached

    @property
    def is_corrupted(self) -> bool:
        """Whether the last output reports NaN or infinite values."""
        return bool(self._last and self._last.metrics and self._last.metrics.is_corrupted)

    def stats(self, lease: Lease | None, waited: float = 0.0) -> RunStats:
        """Return the statistics so far, also of an aborted run; moments are seconds since the call of generate.

        `waited` are the seconds before the lease.
        """
        counts: dict[str, Any] = {
            "input_tokens": self._input_tokens,
            "cached_tokens": self._cached_tokens,
            "output_tokens": self._output_tokens,
            "sequences": self._sequences,
            "lease_wait": lease.waited if lease else 0.0,
            "cold": bool(lease and lease.cold),
        }
        metrics = self._last.metrics if self._last else None
        if self._last is None or metrics is None or not metrics.first_token_ts:
            return RunStats(**counts, queue=waited)
        first_token = waited + counts["lease_wait"] + metrics.first_token_latency
        return RunStats(
            **counts,
            queue=waited + max(0.0, metrics.scheduled_ts - metrics.queued_ts),
            first_token=first_token,
            last_token=first_token + metrics.last_token_ts - metrics.first_token_ts,
            finish_reason=next((out.finish_reason for out in self._last.outputs if out.finish_reason), None),
            preemptions=getattr(metrics, "num_preemptions", 0),  # vLLM 0.26 does not count them
            corrupted=metrics.is_corrupted,
        )
