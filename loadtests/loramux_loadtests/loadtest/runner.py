"""Open loop: sends requests at their scheduled times, however many are in flight."""

import asyncio
import gc
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from loramux_loadtests.client import ChatClient, ChatReply
from loramux_loadtests.loadtest.errors import ServerGoneError
from loramux_loadtests.loadtest.plan import PlannedRequest
from loramux_loadtests.loadtest.prompts import OutputOptions
from loramux_loadtests.loadtest.rows import ABANDONED, NO_CONNECTION, NOT_SENT, RequestRow, make_row

WARM_UP_CONCURRENCY = 4
MAX_FAILED_CONNECTIONS = 20
"""Failed connections in a row that end the load."""
MAX_SENDS_PER_TURN = 8
"""Due requests that are sent before the event loop runs other tasks."""
RESERVED_FILES = 128
"""Open files that this process needs besides its connections."""
HEAD_START_S = 0.05
"""Delay before the start of the load, so that its first request is not late."""

RowSink = Callable[[RequestRow], None]


@dataclass
class LiveCounts:
    """Counts of a running load, for the progress line."""

    sent: int = 0
    ended: int = 0
    errors: int = 0
    ttfts: list[float] = field(default_factory=list)
    """TTFTs of the requests that ended last, in seconds."""

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have not ended."""
        return self.sent - self.ended

    def add(self, row: RequestRow) -> None:
        """Count a request that ended."""
        self.ended += 1
        self.errors += row.error is not None
        if (ttft := row.seconds("ttft")) is not None:
            self.ttfts = [*self.ttfts[-199:], ttft]


class OpenLoop:
    """One load on one server. Passes each request's row to `sink` when the request ends, successful or not."""

    def __init__(
        self, client: ChatClient, models: Mapping[str, str], sink: RowSink, output: OutputOptions, *, drain: float
    ) -> None:
        self._client, self._models, self._sink = client, models, sink
        self._output, self._drain = output, drain
        self._running: set[asyncio.Task[None]] = set()
        self._limit = max_concurrent_requests()
        self._failed_connections = 0
        self.counts = LiveCounts()
        self.begin = time.monotonic()

    async def warm_up(self, requests: Iterable[PlannedRequest]) -> None:
        """Send the requests before the load, a few at a time.

        Raises:
            ServerGoneError: the server does not accept connections.
        """
        waiting = iter(requests)

        async def worker() -> None:
            for planned in waiting:
                if self._failed_connections < MAX_FAILED_CONNECTIONS:
                    await self._request(planned, None)

        await asyncio.gather(*(worker() for _ in range(WARM_UP_CONCURRENCY)))
        self._check_reachable()

    async def run(self, requests: Iterable[PlannedRequest]) -> None:
        """Send each request at its time, and wait for the answers, at most `drain` seconds.

        Requests in flight at the end, or when this is cancelled, get a row with the error ABANDONED.

        Raises:
            ServerGoneError: the server stopped accepting connections.
        """
        self.counts = LiveCounts()
        self.begin = time.monotonic() + HEAD_START_S
        try:
            for number, planned in enumerate(requests):
                wait = self.begin + planned.at - time.monotonic()
                # Timers tick in milliseconds, so send what is due without one, and let the streams run in between.
                if wait > 0 or number % MAX_SENDS_PER_TURN == 0:
                    await asyncio.sleep(max(0.0, wait))
                self._check_reachable()
                self._send(planned)
            if self._running:
                await asyncio.wait(self._running, timeout=self._drain)
            self._check_reachable()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _send(self, planned: PlannedRequest) -> None:
        if len(self._running) >= self._limit:
            now = time.monotonic()
            reply = _unanswered(
                self.begin + planned.at,
                now,
                f"{self._limit} requests are in flight; raise the limit of open files (ulimit -n)",
            )
            self._record(planned, reply, NOT_SENT)
            return
        task = asyncio.create_task(self._request(planned, self.begin + planned.at))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _request(self, planned: PlannedRequest, scheduled: float | None) -> None:
        prompt, sent = planned.prompt, time.monotonic()
        self.counts.sent += 1
        fixed = not self._output.natural
        try:
            reply = await self._client.chat(
                self._models[planned.route],
                prompt.messages,
                max_tokens=prompt.max_tokens,
                temperature=self._output.temperature,
                ignore_eos=True if fixed else None,
                extra={"min_tokens": prompt.max_tokens} if fixed else None,
                scheduled=scheduled,
            )
        except asyncio.CancelledError:
            self._record(planned, _unanswered(scheduled or sent, sent, "no answer when the load ended"), ABANDONED)
            raise
        self._record(planned, reply)

    def _record(self, planned: PlannedRequest, reply: ChatReply, error: str | None = None) -> None:
        row = make_row(
            reply,
            self.begin,
            number=planned.number,
            phase=planned.phase,
            route=planned.route,
            wanted_tokens=planned.prompt.max_tokens,
            cold=planned.cold,
            error=error,
        )
        self._failed_connections = self._failed_connections + 1 if row.error == NO_CONNECTION else 0
        self.counts.add(row)
        self._sink(row)

    def _check_reachable(self) -> None:
        if self._failed_connections >= MAX_FAILED_CONNECTIONS:
            raise ServerGoneError(
                f"{self._client.url} accepted none of the last {self._failed_connections} connections"
            )


def _unanswered(scheduled: float, sent: float, reason: str) -> ChatReply:
    """The reply for a request that was not sent or not waited for."""
    return ChatReply(
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
        chunk_times=(),
        error=reason,
        model="",
        request_id="",
    )


def max_concurrent_requests() -> int:
    """Raise the limit of open files, and return how many requests can be in flight."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return max(1, (1 << 20 if soft == resource.RLIM_INFINITY else soft) - RESERVED_FILES)


@contextmanager
def short_gc_pauses() -> Iterator[None]:
    """Keep garbage collection from scanning long-lived objects such as rows: tenths of a second of client lag."""
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
async def repeated(work: Callable[[], object], interval_s: float) -> AsyncIterator[None]:
    """Call `work` every `interval_s` seconds within the context, and once at its end."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(interval_s)
            work()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        work()
