"""Sending requests at their moments, however many are still under way: an open loop."""

import asyncio
import gc
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from loramux_loadtests.client import Client, Reply
from loramux_loadtests.loadtest.errors import ServerGoneError
from loramux_loadtests.loadtest.plan import Planned
from loramux_loadtests.loadtest.prompts import Output
from loramux_loadtests.loadtest.rows import ABANDONED, NO_CONNECTION, NOT_SENT, Row, row_of

WARM_UP_AT_ONCE = 4
GONE_AFTER = 20
"""So many requests in a row that found no server end the load."""
SENT_IN_A_ROW = 8
"""Of requests that are due, before the event loop goes round."""
SPARE_FILES = 128
"""Of the files that this process may open, those that are no connections."""
HEAD_START_S = 0.05
"""Between the decision to begin and the load's beginning, so that its first request is not late."""

Sink = Callable[[Row], None]


@dataclass
class Counts:
    """A load so far, for who watches it."""

    sent: int = 0
    ended: int = 0
    errors: int = 0
    ttfts: list[float] = field(default_factory=list)
    """Those of the last requests that ended."""

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have not ended."""
        return self.sent - self.ended

    def take(self, row: Row) -> None:
        """Count a request that ended."""
        self.ended += 1
        self.errors += row.error is not None
        if (ttft := row.measured("ttft")) is not None:
            self.ttfts = [*self.ttfts[-199:], ttft]


class OpenLoop:
    """One load on one server. Each request's row goes to `sink` when the request ends, in whatever way."""

    def __init__(
        self, client: Client, models: Mapping[str, str], sink: Sink, answered: Output, *, drain: float
    ) -> None:
        self._client, self._models, self._sink = client, models, sink
        self._answered, self._drain = answered, drain
        self._running: set[asyncio.Task[None]] = set()
        self._limit = most_connections()
        self._unreached = 0
        self.counts = Counts()
        self.begin = time.monotonic()

    async def warm_up(self, requests: Iterable[Planned]) -> None:
        """Send requests before the load, a few at a time. ServerGoneError if nobody takes them."""
        waiting = iter(requests)

        async def one_after_the_other() -> None:
            for planned in waiting:
                if self._unreached < GONE_AFTER:
                    await self._ask(planned, None)

        await asyncio.gather(*(one_after_the_other() for _ in range(WARM_UP_AT_ONCE)))
        self._look()

    async def run(self, requests: Iterable[Planned]) -> None:
        """Send each request at its moment, and wait for all answers, `drain` seconds at most.

        Whatever is under way when this is cancelled, or when ServerGoneError is raised, is written as abandoned.
        """
        self.counts = Counts()
        self.begin = time.monotonic() + HEAD_START_S
        try:
            for number, planned in enumerate(requests):
                wait = self.begin + planned.at - time.monotonic()
                # Timers tick in milliseconds, so whatever is due is sent without one; the streams get their turn too.
                if wait > 0 or number % SENT_IN_A_ROW == 0:
                    await asyncio.sleep(max(0.0, wait))
                self._look()
                self._send(planned)
            if self._running:
                await asyncio.wait(self._running, timeout=self._drain)
            self._look()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _send(self, planned: Planned) -> None:
        if len(self._running) >= self._limit:
            now = time.monotonic()
            reply = _nothing(self.begin + planned.at, now, f"{self._limit} requests are under way: ulimit -n")
            self._take(planned, reply, NOT_SENT)
            return
        task = asyncio.create_task(self._ask(planned, self.begin + planned.at))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _ask(self, planned: Planned, scheduled: float | None) -> None:
        question, sent = planned.question, time.monotonic()
        self.counts.sent += 1
        fixed = not self._answered.natural
        try:
            reply = await self._client.chat(
                self._models[planned.route],
                question.messages,
                max_tokens=question.max_tokens,
                temperature=self._answered.temperature,
                ignore_eos=True if fixed else None,
                extra={"min_tokens": question.max_tokens} if fixed else None,
                scheduled=scheduled,
            )
        except asyncio.CancelledError:
            self._take(planned, _nothing(scheduled or sent, sent, "no answer when the load ended"), ABANDONED)
            raise
        self._take(planned, reply)

    def _take(self, planned: Planned, reply: Reply, error: str | None = None) -> None:
        row = row_of(
            reply,
            self.begin,
            number=planned.number,
            phase=planned.phase,
            route=planned.route,
            wanted_tokens=planned.question.max_tokens,
            cold=planned.cold,
            error=error,
        )
        self._unreached = self._unreached + 1 if row.error == NO_CONNECTION else 0
        self.counts.take(row)
        self._sink(row)

    def _look(self) -> None:
        if self._unreached >= GONE_AFTER:
            raise ServerGoneError(f"{self._client.url} took none of the last {self._unreached} requests")


def _nothing(scheduled: float, sent: float, reason: str) -> Reply:
    """What came of a request that nobody waited for."""
    return Reply(
        ok=False,
        status=0,
        text="",
        input_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        scheduled=scheduled,
        sent=sent,
        first=None,
        last=time.monotonic(),
        moments=(),
        error=reason,
        model="",
        request_id="",
    )


def most_connections() -> int:
    """How many requests can be under way, after the limit of open files is as high as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return max(1, (1 << 20 if soft == resource.RLIM_INFINITY else soft) - SPARE_FILES)


@contextmanager
def short_pauses() -> Iterator[None]:
    """Collect no garbage among what has lived long, such as rows: that takes tenths of a second, which are lag."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@asynccontextmanager
async def meanwhile(work: Callable[[], object], every: float) -> AsyncIterator[None]:
    """Do `work` again and again while the context lasts, and once at its end."""

    async def again() -> None:
        while True:
            await asyncio.sleep(every)
            work()

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        work()
