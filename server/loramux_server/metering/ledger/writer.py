"""Who keeps the ledger: in batches, in a thread of its own, whatever the database does meanwhile."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.repository import FORGET_AT_ONCE, Book
from loramux_server.metering.ledger.usage_rows import row
from loramux_server.metering.usage_record import Charge, UsageRecord

logger = logging.getLogger("loramux.ledger")

BATCH = 5_000
LONGEST_PAUSE = 10.0
"""Seconds between two tries while the database is away."""
CLOSE_SECONDS = 10.0
FORGET_SECONDS = 600.0
SECONDS_PER_DAY = 86_400


class Observer(Protocol):
    """Told how the writer keeps up."""

    def ledger(self, *, waiting: int, dropped: int) -> None:
        """So many records are not written yet, and so many were dropped since the last time."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may be lost, be kept waiting, and be kept."""

    flush_seconds: float = 1.0
    waiting: int = 100_000
    record_days: float = 30
    sum_days: float = 400


class LedgerWriter:
    """A Sink that writes what it is told: half of `flush_seconds` later at most, if the database can do as much.

    While it can't, the records wait, and beyond `limits.waiting` the newest are dropped.
    """

    def __init__(self, book: Book, limits: Limits, observer: Observer, clock: Callable[[], float] = time.time) -> None:
        self._book, self._limits, self._observer, self._clock = book, limits, observer, clock
        self._records: deque[dict[str, Any]] = deque()
        self._minutes: dict[int, EngineTime] = {}
        self._lock = threading.Lock()
        """Held for as long as it takes to take or add what waits."""
        self._dropped, self._forgotten_at, self._told = 0, 0.0, ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="ledger", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what is waiting, if that can be done in CLOSE_SECONDS; what could not is told in the log."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if self._records:
            logger.error("%d usage records are lost: the database could not be written.", len(self._records))

    def charged(self, record: UsageRecord, charge: Charge) -> None:
        """Take a request's record."""
        with self._lock:
            if len(self._records) < self._limits.waiting:
                self._records.append(row(record, charge))
            else:
                self._dropped += 1

    def passed(self, engine_time: EngineTime) -> None:
        """Take a stretch of the engine's time."""
        with self._lock:
            minute = max(
                int(self._clock() // 60), *self._minutes, 0
            )  # a clock put back must not reopen what is written
            self._minutes[minute] = self._minutes.get(minute, EngineTime()) + engine_time

    def flush(self) -> bool:
        """Write a batch of what waits; returns whether more does. Raises SQLAlchemyError and keeps it all then."""
        with self._lock:
            batch, minutes = list(islice(self._records, BATCH)), dict(self._minutes)
        try:
            self._book.write(batch, minutes)
        except (DataError, IntegrityError):
            logger.exception("%d usage records can't be written, ever, and are dropped.", len(batch))
            self._dropped += len(batch)
        with self._lock:
            for _ in batch:
                self._records.popleft()
            for minute in sorted(minutes)[:-1]:  # it is over; the newest still grows
                del self._minutes[minute]
            return bool(self._records)

    def _keep_writing(self) -> None:
        pause = usual = self._limits.flush_seconds / 2
        while not self._closing.wait(pause):
            pause = usual if self._write() else min(2 * pause, LONGEST_PAUSE)
        self._write()

    def _write(self) -> bool:
        """Write all that waits, and forget some of what is old; returns whether the database did it."""
        try:
            while self.flush():
                pass
            self._forget()
        except SQLAlchemyError as error:
            self._tell(f"The ledger can't be written, and its records wait: {error.__class__.__name__}.")
            return False
        finally:
            dropped, self._dropped = self._dropped, 0
            self._observer.ledger(waiting=len(self._records), dropped=dropped)
        self._told = ""
        return True

    def _forget(self) -> None:
        now = self._clock()
        if now - self._forgotten_at < FORGET_SECONDS:
            return
        limits = self._limits
        gone = self._book.forget(now - limits.record_days * SECONDS_PER_DAY, now - limits.sum_days * SECONDS_PER_DAY)
        if gone < FORGET_AT_ONCE:  # else the next time goes on with it
            self._forgotten_at = now

    def _tell(self, words: str) -> None:
        """Log it, unless it was what was logged last."""
        if words != self._told:
            logger.warning(words)
        self._told = words
