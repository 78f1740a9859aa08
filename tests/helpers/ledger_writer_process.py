"""A process that keeps a ledger until it is killed: `python -m tests.helpers.ledger_writer_process FOLDER SECONDS`.

It says on its standard output how many records it has handed to the writer, and when.
"""

import sys
import time
from pathlib import Path

from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.ledger.repository import Book
from loramux_server.metering.ledger.writer import LedgerWriter, Limits
from tests.helpers.usage_records import CHARGE, Watcher, database, record

PER_SECOND = 1000


def main(folder: Path, flush_seconds: float) -> None:
    """Keep the ledger; nothing ends this but a signal."""
    writer = LedgerWriter(Book(database(folder)), Limits(flush_seconds=flush_seconds), Watcher())
    writer.start()
    began, count = time.monotonic(), 0
    while True:
        for _ in range(PER_SECOND // 100):
            writer.charged(record(time.time(), request_id=f"req_{count}"), CHARGE)
            count += 1
        writer.passed(EngineTime(0.01, 0.0, 0, 7))
        print(count, time.monotonic() - began, flush=True)  # noqa: T201
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
