"""Admission of runs to the engine: each waits for its turn, and a full queue refuses early."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

from loramux_server.errors import ServerOverloaded
from loramux_server.fairness.metrics import AdmissionMetrics
from loramux_server.fairness.scheduler import FairScheduler, Flow, Progress, ScheduledRun
from loramux_server.fairness.window import Demand

MAX_RETRY_SECONDS = 60
_FULL = "The server has more requests waiting than it can serve soon: retry later."


@dataclass(frozen=True, slots=True)
class Turn:
    """A run's turn in the engine. The first two functions are called in the engine's steps: they only leave a note."""

    waited: float = 0.0
    """Seconds in the queue."""
    on_first_token: Callable[[], object] = lambda: None
    """To be called when the engine has computed the prompt."""
    on_ended: Callable[[], object] = lambda: None
    """To be called when the run has ended in the engine, although a slow client may still read its answer."""
    leave: Callable[[], None] = lambda: None
    """To be called when nobody reads the answer any more; it ends the turn at once."""


class FairAdmission:
    """Lets runs wait for their turn; without a scheduler, nobody waits and nobody is refused."""

    def __init__(self, scheduler: FairScheduler | None, metrics: AdmissionMetrics | None = None) -> None:
        self._scheduler, self._metrics = scheduler, metrics
        if scheduler is not None and metrics is not None:
            metrics.watch(lambda: scheduler.waiting, lambda: scheduler.waiting_tokens)

    def check(self, flow: Flow) -> None:
        """Refuse a request that would only wait, before its prompt is rendered and its response starts.

        Raises:
            ServerOverloaded: the queue is full, and this flow has its share of it.
        """
        if self._scheduler is not None and self._scheduler.is_full_for(flow):
            if self._metrics is not None:
                self._metrics.count_refused(flow.priority)
            retry_after = min(MAX_RETRY_SECONDS, max(1, ceil(self._scheduler.last_wait)))
            raise ServerOverloaded(_FULL, retry_after=retry_after)

    async def enter(self, flow: Flow, demand: Demand, max_tokens: int | None, progress: Progress) -> Turn:
        """Wait for the turn of a run; its `leave` must be called at the end. Who is cancelled leaves the queue.

        Raises:
            ServerOverloaded: the queue became full after the request was checked.
        """
        if self._scheduler is None:
            return Turn()
        self.check(flow)
        granted = asyncio.Event()
        run = ScheduledRun(flow, demand, max_tokens, progress, granted.set)
        self._scheduler.enqueue(run)
        try:
            await granted.wait()
        except BaseException:
            self._scheduler.end(run)
            raise
        if self._metrics is not None:
            self._metrics.observe_wait(flow.priority, run.waited)
        return self._turn(self._scheduler, run)

    @staticmethod
    def _turn(scheduler: FairScheduler, run: ScheduledRun) -> Turn:
        loop = asyncio.get_running_loop()
        return Turn(
            run.waited,
            on_first_token=partial(loop.call_soon, scheduler.start, run),
            on_ended=partial(loop.call_soon, scheduler.end, run),
            leave=partial(scheduler.end, run),
        )
