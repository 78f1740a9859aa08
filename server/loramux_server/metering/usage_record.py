"""The usage record of a request; pure values."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from loramux_server.metering.cost_allocation import CostShare

if TYPE_CHECKING:
    from loramux_server.experiments.assignment import Assignment


class Operation(StrEnum):
    """The endpoint of a request, of those that generate."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    CANCELLED = "cancelled"
    """The client disconnected before the end."""
    REFUSED = "refused"
    """An invalid request, or not enough capacity."""
    FAILED = "failed"
    """A server error."""


@dataclass(frozen=True, slots=True)
class Route:
    """The model of a request: the base (both None), or one version of an adapter."""

    adapter: str | None = None
    version: str | None = None

    @property
    def kind(self) -> str:
        """`base` or `adapter`."""
        return "base" if self.adapter is None else "adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStats:
    """Statistics of one run in the engine; durations in seconds, moments in seconds since the run's start.

    `input_tokens` include the `cached_tokens`; `output_tokens` are those of all `sequences` (OpenAI's `n`) together.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    sequences: int = 1
    lease_wait: float = 0.0
    """Time until the adapter was loaded."""
    queue: float = 0.0
    """Time in the engine's queue."""
    first_token: float | None = None
    last_token: float | None = None
    finish_reason: str | None = None
    preemptions: int = 0
    corrupted: bool = False
    """Whether the engine computed NaN or infinite values."""
    cold: bool = False
    """Whether the adapter was not in the engine when the request arrived."""

    @property
    def time_per_output_token(self) -> float | None:
        """Mean seconds per token after the first, (last - first) / (n - 1), for a sequence of mean length."""
        if self.first_token is None or self.last_token is None:
            return None
        gaps = self.output_tokens / self.sequences - 1
        return None if gaps <= 0 else (self.last_token - self.first_token) / gaps

    def shifted(self, seconds: float) -> "RunStats":
        """Return the statistics with moments counted from `seconds` before the run's start."""
        return replace(
            self,
            first_token=None if self.first_token is None else self.first_token + seconds,
            last_token=None if self.last_token is None else self.last_token + seconds,
        )


def combine(runs: Sequence[RunStats]) -> RunStats:
    """Combine the runs of one request: tokens summed, earliest first token, latest last token, longest waits.

    Moments of all runs must be counted from the same start. The finish reason is the one that all share, else None.
    """
    first_tokens = [run.first_token for run in runs if run.first_token is not None]
    last_tokens = [run.last_token for run in runs if run.last_token is not None]
    finish_reasons = {run.finish_reason for run in runs}
    return RunStats(
        input_tokens=sum(run.input_tokens for run in runs),
        cached_tokens=sum(run.cached_tokens for run in runs),
        output_tokens=sum(run.output_tokens for run in runs),
        sequences=sum(run.sequences for run in runs),
        lease_wait=max((run.lease_wait for run in runs), default=0.0),
        queue=max((run.queue for run in runs), default=0.0),
        first_token=min(first_tokens, default=None),
        last_token=max(last_tokens, default=None),
        finish_reason=finish_reasons.pop() if len(finish_reasons) == 1 else None,
        preemptions=sum(run.preemptions for run in runs),
        corrupted=any(run.corrupted for run in runs),
        cold=any(run.cold for run in runs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """The usage record of one request.

    `request_id` may be the client's, so it is not unique. `key_id` is None without a valid API key, `route` is None if
    the request was refused before its model was resolved, and `error` is the code (or else the type) of the error
    response. Moments in `stats` are counted from the request's start.
    """

    request_id: str
    operation: Operation
    outcome: Outcome
    status: int
    error: str | None
    key_id: str | None
    route: Route | None
    started_at: float
    """Unix time in seconds."""
    duration: float
    """Seconds until the response was complete or the client disconnected."""
    stats: RunStats
    cost_share: CostShare = field(default_factory=CostShare)
    """Its share of the engine's cost; complete after the next allocation."""
    traceparent: str | None = None
    """The client's W3C `traceparent` header, unvalidated."""
    experiment: "Assignment | None" = None
    """The experiment that the request was a part of."""
    project: str = ""
    """The project that the request is charged to; empty if it is charged to none."""

    @property
    def ended_at(self) -> float:
        """Unix time in seconds."""
        return self.started_at + self.duration


@dataclass(frozen=True, slots=True)
class Charge:
    """The cost of a request in nano-dollars, by the price list and by GPU time, and the version of the price list.

    A cost is None if there was no price for it: unknown, not zero.
    """

    price_list: int | None
    gpu_hour: int | None
    price_version: str
