"""A process that writes a ledger until it is killed: `python -m tests.helpers.ledger_writer_process FOLDER SECONDS`.

It prints the number of records handed to the writer so far, and the seconds since its start.
"""

import sys
import time
from pathlib import Path

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.repository import LedgerRepository
from loramux_server.metering.ledger.writer import LedgerLimits, LedgerWriter
from tests.helpers.usage_records import CHARGE, RecordingLedgerObserver, database, record

PER_SECOND = 1000


def main(folder: Path, flush_seconds: float) -> None:
    """Write the ledger until a signal ends the process."""
    writer = LedgerWriter(
        LedgerRepository(database(folder)), LedgerLimits(flush_seconds=flush_seconds), RecordingLedgerObserver()
    )
    writer.start()
    began, count = time.monotonic(), 0
    while True:
        for _ in range(PER_SECOND // 100):
            writer.record_charge(record(time.time(), request_id=f"req_{count}"), CHARGE)
            count += 1
        writer.record_engine_time(EngineTime(0.01, 0.0, 0, 7))
        print(count, time.monotonic() - began, flush=True)  # noqa: T201
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
