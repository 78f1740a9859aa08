"""Records to keep, and a ledger to keep them in."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from loramux_server.metering.usage_record import Charge, Operation, Outcome, Route, RunStats, UsageRecord
from tests.helpers.migrated_database import migrated_database

HOUR = 3600.0
NOON = 490_000 * HOUR
"""An hour's begin, in Unix seconds."""
TONE = Route("tone", "3f9c2ab01d44")
FACTS = RunStats(input_tokens=10, cached_tokens=4, output_tokens=11, queue=0.02, first_token=1.0, last_token=3.0)
CHARGE = Charge(price_list=1_000, gpu_hour=2_000, price_version="0123456789ab")


def record(ended_at: float = NOON, **changes: Any) -> UsageRecord:
    """A request on an adapter that took 4 seconds and ended then."""
    facts: dict[str, Any] = {
        "request_id": "req_1", "operation": Operation.CHAT, "outcome": Outcome.OK, "status": 200, "error": None,
        "key_id": "key_1", "route": TONE, "started_at": ended_at - 4, "duration": 4.0, "facts": FACTS,
    }  # fmt: skip
    return UsageRecord(**facts | changes)


def database(folder: Path) -> sa.Engine:
    """A migrated database."""
    return migrated_database(folder / "loramux.sqlite3")


class RecordingLedgerObserver:
    """An observer that keeps the newest count, and adds up what was dropped."""

    def __init__(self) -> None:
        self.waiting = self.dropped = 0

    def ledger_flushed(self, *, waiting: int, dropped: int) -> None:
        """Keep it."""
        self.waiting = waiting
        self.dropped += dropped
