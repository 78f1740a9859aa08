"""One HTTP request as the whole server sees it, from its first byte until nothing of it is left to count."""

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from loramux_adapters.models import VersionId
from loramux_server.auth import ANONYMOUS, Principal
from loramux_server.errors import LoramuxError
from loramux_server.metering.cost_allocation import Share
from loramux_server.metering.usage_record import Operation, Outcome, Route, RunFacts, UsageRecord, combine


class Meter(Protocol):
    """Told once when a request reaches its route, and once when all of it is over."""

    def begin(self, route: Route) -> None:
        """A request has begun to run on `route`."""

    def record(self, record: UsageRecord) -> None:
        """A request is over; if its route is not None, `begin` was called before."""


@dataclass(frozen=True)
class Meters:
    """Several meters as one."""

    each: Sequence[Meter]

    def begin(self, route: Route) -> None:
        """Tell each."""
        for meter in self.each:
            meter.begin(route)

    def record(self, record: UsageRecord) -> None:
        """Tell each."""
        for meter in self.each:
            meter.record(record)


@dataclass(eq=False, slots=True)
class Run:
    """One prompt's way through the engine; it must be finished, exactly once, however it ends."""

    context: "RequestContext"
    route: Route
    started: float
    """Monotonic seconds."""
    facts: RunFacts | None = None

    def finish(self, facts: RunFacts) -> None:
        """Report what the engine did, with moments counted from `started`; a second call raises RuntimeError."""
        if self.facts is not None:
            raise RuntimeError("A run is finished once.")
        self.facts = facts.shifted(self.started - self.context.started)
        self.context.settle()


@dataclass(eq=False, slots=True)
class RequestContext:
    """A request's identity, and the runs that it makes in the engine.

    The record goes out once: when the response is closed and every run is finished, in whichever order that happens.
    (The generator of a cancelled stream may be closed long after its response.) `refusal` is the error that the
    request is to be answered with; whoever refuses sets it, because vLLM's handlers keep only a message.
    """

    request_id: str
    operation: Operation | None
    """None for what leaves no record."""
    meter: Meter
    principal: Principal | None = None
    refusal: LoramuxError | None = None
    versions: dict[str, VersionId] = field(default_factory=dict)
    """What the adapters' names in this request mean, decided once: an alias may move while it is served."""
    user: str | None = None
    """Whom the client says that it asks for."""
    share: Share = field(default_factory=Share)
    """What it owes for the engine's time."""
    traceparent: str | None = None
    """The client's own span, as its header says."""
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    _runs: list[Run] = field(default_factory=list)
    _closing: tuple[int, Outcome, float] | None = None

    @property
    def sticky(self) -> str | None:
        """Whoever should get the same version of a split every time: the client's user, or else the key's holder."""
        if self.user or self.principal in (None, ANONYMOUS):
            return self.user
        return self.principal.key_id

    def begin_run(self, route: Route) -> Run:
        """Enter a run on `route`; RuntimeError when the response is closed, since nobody is left to run for."""
        if self._closing is not None:
            raise RuntimeError("The request is over.")
        run = Run(self, route, time.monotonic())
        if not self._runs and self.operation is not None:
            self.meter.begin(route)
        self._runs.append(run)
        return run

    def close(self, status: int, outcome: Outcome) -> None:
        """Note that the response is complete, or the client gone; a second call raises RuntimeError."""
        if self._closing is not None:
            raise RuntimeError("A request is closed once.")
        self._closing = (status, outcome, time.monotonic() - self.started)
        self.settle()

    def settle(self) -> None:
        """Emit the record if this was the last thing that it waited for."""
        facts = [run.facts for run in self._runs if run.facts is not None]
        if self._closing is None or self.operation is None or len(facts) < len(self._runs):
            return
        status, outcome, duration = self._closing
        self.meter.record(
            UsageRecord(
                request_id=self.request_id,
                operation=self.operation,
                outcome=outcome,
                status=status,
                error=None if self.refusal is None else self.refusal.code or self.refusal.type,
                key_id=None if self.principal is None else self.principal.key_id,
                route=self._runs[0].route if self._runs else None,
                started_at=self.started_at,
                duration=duration,
                facts=combine(facts),
                share=self.share,
                traceparent=self.traceparent,
            )
        )


current_request: ContextVar[RequestContext] = ContextVar("current_request")
"""Set by the middleware for every HTTP request; seen in every task that serves it."""
