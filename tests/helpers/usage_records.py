"""Usage records, and a database for the ledger."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from loramux_server.metering.usage_record import Charge, Operation, Outcome, Route, RunStats, UsageRecord
from tests.helpers.migrated_database import migrated_database

HOUR = 3600.0
NOON = 490_000 * HOUR
"""The start of an hour, in Unix seconds."""
TONE = Route("tone", "3f9c2ab01d44")
STATS = RunStats(input_tokens=10, cached_tokens=4, output_tokens=11, queue=0.02, first_token=1.0, last_token=3.0)
CHARGE = Charge(price_list=1_000, gpu_hour=2_000, price_version="0123456789ab")


def record(ended_at: float = NOON, **changes: Any) -> UsageRecord:
    """Return the record of a 4 second request on an adapter that ended at `ended_at`."""
    fields: dict[str, Any] = {
        "request_id": "req_1", "operation": Operation.CHAT, "outcome": Outcome.OK, "status": 200, "error": None,
        "key_id": "key_1", "route": TONE, "started_at": ended_at - 4, "duration": 4.0, "stats": STATS,
    }  # fmt: skip
    return UsageRecord(**fields | changes)


def database(folder: Path) -> sa.Engine:
    """Return a migrated SQLite database in `folder`."""
    return migrated_database(folder / "loramux.sqlite3")


class RecordingLedgerObserver:
    """A LedgerObserver that keeps the newest number of waiting records and the total of dropped ones."""

    def __init__(self) -> None:
        self.waiting = self.dropped = 0
        self._flushed = threading.Condition()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` is true after a flush of the writer.

        Raises:
            TimeoutError: it is still false after 10 seconds.
        """
        with self._flushed:
            if not self._flushed.wait_for(condition, timeout=10):
                raise TimeoutError

    def ledger_flushed(self, *, waiting: int, dropped: int) -> None:
        """Keep the numbers."""
        with self._flushed:
            self.waiting = waiting
            self.dropped += dropped
            self._flushed.notify_all()
