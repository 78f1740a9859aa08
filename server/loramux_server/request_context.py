"""The context of an HTTP request: identity, engine runs, and the usage record at its end."""

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from loramux_adapters.models import VersionId
from loramux_server.auth import ANONYMOUS, Principal
from loramux_server.errors import LoramuxError
from loramux_server.experiments.assignment import Assignment
from loramux_server.fairness.priority import Priority
from loramux_server.metering.cost_allocation import CostShare
from loramux_server.metering.usage_record import Operation, Outcome, Route, RunStats, UsageRecord, combine


class Meter(Protocol):
    """Receives each request twice: when it starts to run on a route, and when it has ended."""

    def begin(self, route: Route) -> None:
        """Count a request that starts to run on `route`."""

    def record(self, record: UsageRecord) -> None:
        """Record a finished request; if its route is not None, `begin` was called before."""


class Settleable(Protocol):
    """What a request has reserved of its limits."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Response headers that say what is left."""

    def settle(self, record: UsageRecord) -> None:
        """Replace what is reserved by what was used; called once, at the end."""


@dataclass(frozen=True)
class CompositeMeter:
    """Passes each call to several meters."""

    meters: Sequence[Meter]

    def begin(self, route: Route) -> None:
        """Call `begin` of each meter."""
        for meter in self.meters:
            meter.begin(route)

    def record(self, record: UsageRecord) -> None:
        """Call `record` of each meter."""
        for meter in self.meters:
            meter.record(record)


@dataclass(eq=False, slots=True)
class Run:
    """One generation in the engine; `finish` must be called exactly once, whatever the outcome."""

    context: "RequestContext"
    route: Route
    started: float
    """Monotonic seconds."""
    stats: RunStats | None = None

    def finish(self, stats: RunStats) -> None:
        """Store the measurements of the run, with times relative to `started`.

        Raises:
            RuntimeError: the run is already finished.

        """
        if self.stats is not None:
            raise RuntimeError("The run is already finished.")
        self.stats = stats.shifted(self.started - self.context.started)
        self.context.record_if_ended()


@dataclass(eq=False, slots=True)
class RequestContext:
    """A request's identity, and its runs in the engine.

    The usage record is emitted once, when the response is closed and every run is finished, in either order: the
    generator of a cancelled stream may be closed long after its response. Code that refuses a request sets `refusal`,
    the error of the response, because vLLM's handlers keep only its message.
    """

    request_id: str
    operation: Operation | None
    """None for requests without a usage record."""
    meter: Meter
    principal: Principal | None = None
    refusal: LoramuxError | None = None
    versions: dict[str, VersionId] = field(default_factory=dict)
    """Versions that adapter names in this request resolve to, decided once because an alias may change meanwhile."""
    charge_to: str | None = None
    """Account in the usage ledger instead of the caller's API key, such as `experiment:NAME`; at most 64 characters."""
    end_user: str | None = None
    """End user, as given by the client."""
    model: str | None = None
    """The model that the client asked for, which may be an alias."""
    priority: Priority = Priority.DEFAULT
    """The priority class that the client asked for."""
    limits_answer: bool = False
    """Whether the client says how long the answer may be."""
    wants_cost: bool = False
    """Whether the client asks for the cost in the usage of the response."""
    reservation: Settleable | None = None
    """What the request has reserved of its limits."""
    experiment: Assignment | None = None
    """The experiment that the request is a part of, with the variant that it was assigned to."""
    cost_share: CostShare = field(default_factory=CostShare)
    """Its share of the engine's cost."""
    needs_system_first: bool | None = None
    """Whether the adapter's own chat template refuses late system messages; None if the base's template decides."""
    traceparent: str | None = None
    """The client's span, from its `traceparent` header."""
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    _runs: list[Run] = field(default_factory=list)
    _closing: tuple[int, Outcome, float] | None = None

    @property
    def split_key(self) -> str | None:
        """Identity that stays on one version of a split: the end user, or else the API key."""
        if self.end_user or self.principal in (None, ANONYMOUS):
            return self.end_user
        return self.principal.key_id

    def begin_run(self, route: Route) -> Run:
        """Start a run on `route`.

        Raises:
            RuntimeError: the response is already closed.

        """
        if self._closing is not None:
            raise RuntimeError("The request has ended.")
        run = Run(self, route, time.monotonic())
        if not self._runs and self.operation is not None:
            self.meter.begin(route)
        self._runs.append(run)
        return run

    def close(self, status: int, outcome: Outcome) -> None:
        """Record that the response is complete, or the client disconnected.

        Raises:
            RuntimeError: the request is already closed.

        """
        if self._closing is not None:
            raise RuntimeError("The request is already closed.")
        self._closing = (status, outcome, time.monotonic() - self.started)
        self.record_if_ended()

    def record_if_ended(self) -> None:
        """Emit the usage record if the response is closed and all runs are finished."""
        stats = [run.stats for run in self._runs if run.stats is not None]
        if self._closing is None or self.operation is None or len(stats) < len(self._runs):
            return
        status, outcome, duration = self._closing
        record = UsageRecord(
            request_id=self.request_id,
            operation=self.operation,
            outcome=outcome,
            status=status,
            error=None if self.refusal is None else self.refusal.code or self.refusal.type,
            key_id=self.charge_to or (None if self.principal is None else self.principal.key_id),
            project="" if self.charge_to or self.principal is None else self.principal.project,
            route=self._runs[0].route if self._runs else None,
            started_at=self.started_at,
            duration=duration,
            stats=combine(stats),
            cost_share=self.cost_share,
            traceparent=self.traceparent,
            experiment=self.experiment,
        )
        if self.reservation is not None:
            self.reservation.settle(record)
        self.meter.record(record)

    def finished_usage(self) -> tuple[Route, RunStats] | None:
        """Return the route and the statistics of the request, None unless all of its runs are finished."""
        stats = [run.stats for run in self._runs if run.stats is not None]
        return (self._runs[0].route, combine(stats)) if stats and len(stats) == len(self._runs) else None


current_request: ContextVar[RequestContext] = ContextVar("current_request")
"""The context of the present HTTP request, set by the middleware and inherited by its tasks."""
