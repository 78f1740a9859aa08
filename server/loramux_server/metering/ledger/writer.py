"""Writes the ledger in batches from a background thread, retrying while the database is unreachable."""

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
from loramux_server.metering.ledger.repository import DELETE_BATCH, LedgerRepository
from loramux_server.metering.ledger.time_range import SECONDS_PER_DAY, SECONDS_PER_HOUR
from loramux_server.metering.ledger.usage_rows import usage_row
from loramux_server.metering.usage_record import Charge, UsageRecord

logger = logging.getLogger("loramux.ledger")

BATCH_ROWS = 5_000
MAX_RETRY_SECONDS = 10.0
"""Longest pause between two tries while the database is unreachable."""
CLOSE_SECONDS = 10.0
CLEANUP_INTERVAL_SECONDS = 600.0


class LedgerObserver(Protocol):
    """Receives the state of the writer, for metrics."""

    def ledger_flushed(self, *, waiting: int, dropped: int) -> None:
        """Record the number of waiting records, and of those dropped since the last call."""


@dataclass(frozen=True, kw_only=True)
class LedgerLimits:
    """Limits on the loss in a crash, on waiting records, and on retention."""

    flush_seconds: float = 1.0
    """Most seconds of records that a killed process loses."""
    max_waiting: int = 100_000
    """Records in memory; further ones are dropped."""
    record_days: float = 30
    rollup_days: float = 400

    @property
    def record_seconds(self) -> float:
        """Age at which single records are deleted: an hour more, so that a range of `record_days` still has all."""
        return self.record_days * SECONDS_PER_DAY + SECONDS_PER_HOUR


class LedgerWriter:
    """A ChargeSink that writes records within half of `flush_seconds`, if the database is fast enough.

    Otherwise records wait in memory; beyond `limits.max_waiting`, new ones are dropped.
    """

    def __init__(
        self,
        repository: LedgerRepository,
        limits: LedgerLimits,
        observer: LedgerObserver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository, self._limits, self._observer, self._clock = repository, limits, observer, clock
        self._records: deque[dict[str, Any]] = deque()
        self._minutes: dict[int, EngineTime] = {}
        self._lock = threading.Lock()
        """Guards `_records` and `_minutes`; never held during I/O."""
        self._dropped, self._cleaned_at, self._last_warning = 0, 0.0, ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Start the background thread."""
        self._thread.start()

    def close(self) -> None:
        """Write the waiting records within CLOSE_SECONDS; log the number of those that could not be written."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if self._records:
            logger.error("%d usage records are lost: the database could not be written.", len(self._records))

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Add the record of a charged request."""
        with self._lock:
            if len(self._records) < self._limits.max_waiting:
                self._records.append(usage_row(record, charge))
            else:
                self._dropped += 1

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Add a period of engine time."""
        with self._lock:
            # If the clock is set back, the newest minute grows: older ones are written already.
            minute = max(int(self._clock() // 60), *self._minutes, 0)
            self._minutes[minute] = self._minutes.get(minute, EngineTime()) + engine_time

    def flush(self) -> bool:
        """Write one batch of waiting records; returns whether more are waiting.

        Raises:
            SQLAlchemyError: nothing was written; the records keep waiting.
        """
        with self._lock:
            batch, minutes = list(islice(self._records, BATCH_ROWS)), dict(self._minutes)
        try:
            self._repository.write(batch, minutes)
        except (DataError, IntegrityError):
            logger.exception("Dropped %d usage records: the database can't store their values.", len(batch))
            self._dropped += len(batch)
        with self._lock:
            for _ in batch:
                self._records.popleft()
            for minute in sorted(minutes)[:-1]:  # all but the newest are complete
                del self._minutes[minute]
            return bool(self._records)

    def _run(self) -> None:
        pause = usual = self._limits.flush_seconds / 2
        while not self._closing.wait(pause):
            pause = usual if self._write_all() else min(2 * pause, MAX_RETRY_SECONDS)
        self._write_all()

    def _write_all(self) -> bool:
        """Write all waiting records, and delete some expired ones; returns whether the database was reachable."""
        try:
            while self.flush():
                pass
            self._delete_expired()
        except SQLAlchemyError as error:
            self._warn_once(
                f"The usage ledger can't be written; its records wait in memory ({error.__class__.__name__})."
            )
            return False
        finally:
            dropped, self._dropped = self._dropped, 0
            self._observer.ledger_flushed(waiting=len(self._records), dropped=dropped)
        self._last_warning = ""
        return True

    def _delete_expired(self) -> None:
        now = self._clock()
        if now - self._cleaned_at < CLEANUP_INTERVAL_SECONDS:
            return
        limits = self._limits
        ages = (limits.record_seconds, limits.rollup_days * SECONDS_PER_DAY)
        deleted = self._repository.delete_expired(*(now - age for age in ages))
        if deleted < DELETE_BATCH:  # else the next flush deletes more
            self._cleaned_at = now

    def _warn_once(self, message: str) -> None:
        """Log a warning, unless it is the same as the last one."""
        if message != self._last_warning:
            logger.warning(message)
        self._last_warning = message
