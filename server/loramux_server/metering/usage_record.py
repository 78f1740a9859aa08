"""What a request leaves behind: pure values, read from no clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from loramux_server.metering.cost_allocation import Share


class Operation(StrEnum):
    """What was asked for: the endpoints that generate."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    CANCELLED = "cancelled"
    """The client went away before the end."""
    REFUSED = "refused"
    """Turned away: a wrong request, or no room."""
    FAILED = "failed"
    """A fault of the server's."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a request runs on: the base (both None), or one version of an adapter."""

    adapter: str | None = None
    version: str | None = None

    @property
    def kind(self) -> str:
        """`base` or `adapter`."""
        return "base" if self.adapter is None else "adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the engine tells of one prompt's generation; times in seconds, moments counted from the run's begin.

    `input_tokens` include the `cached_tokens`; `output_tokens` are those of all `sequences` (OpenAI's `n`) together.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    sequences: int = 1
    lease_wait: float = 0.0
    """Waiting for the adapter to be in the engine."""
    queue: float = 0.0
    """Waiting in the engine to be scheduled."""
    first_token: float | None = None
    last_token: float | None = None
    finish_reason: str | None = None
    preemptions: int = 0
    corrupted: bool = False
    """The engine saw values that are no numbers."""
    cold: bool = False
    """The adapter was not in the engine when it was asked for."""

    @property
    def time_per_output_token(self) -> float | None:
        """Seconds from one token to the next, (last - first) / (n - 1), of a sequence of mean length."""
        if self.first_token is None or self.last_token is None:
            return None
        gaps = self.output_tokens / self.sequences - 1
        return None if gaps <= 0 else (self.last_token - self.first_token) / gaps

    def shifted(self, seconds: float) -> "RunFacts":
        """Return the facts with moments counted from `seconds` before the run's begin."""
        return replace(
            self,
            first_token=None if self.first_token is None else self.first_token + seconds,
            last_token=None if self.last_token is None else self.last_token + seconds,
        )


def combine(runs: Sequence[RunFacts]) -> RunFacts:
    """Return the runs of one request as one: tokens summed, earliest first token, latest last, longest waits.

    The runs' moments must be counted from one begin. The reason to finish is the one that all share, else None.
    """
    first_tokens = [run.first_token for run in runs if run.first_token is not None]
    last_tokens = [run.last_token for run in runs if run.last_token is not None]
    finish_reasons = {run.finish_reason for run in runs}
    return RunFacts(
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
    """The one row that a request leaves.

    `request_id` may be the client's own, so it is not unique. `key_id` is None when no valid key came with the
    request, and `route` when it was turned away before its model was known; `facts` count from the request's begin.
    `error` is the code (or else the type) that the request was answered with.
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
    """Seconds until the response was complete, or the client gone."""
    facts: RunFacts
    share: Share = field(default_factory=Share)
    """What it owes for the engine's time: complete when the engine's bill was settled once more."""
    traceparent: str | None = None
    """The client's own span, as W3C's header names it; anything, if the client likes."""

    @property
    def ended_at(self) -> float:
        """Unix time in seconds."""
        return self.started_at + self.duration


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request cost, by the tokens' price and by the engine's time, in nano-dollars, and by which price list."""

    price_list: int
    gpu_hour: int
    price_version: str
