"""A killed server loses at most the records of one flush interval, and never half a batch."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.helpers.usage_records import database

pytestmark = pytest.mark.slow

FLUSH_SECONDS = 0.5


@pytest.mark.parametrize(
    "seed",
    [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 2, 3, 4))],  # 1 is killed soonest
)
def test_sigkill_at_any_time_loses_at_most_the_last_flush_interval(tmp_path: Path, seed: int) -> None:
    command = [sys.executable, "-m", "tests.helpers.ledger_writer_process", str(tmp_path), str(FLUSH_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has started
        time.sleep(random.Random(seed).uniform(0.1, 2.0))  # noqa: S311
        process.kill()
        printed = [
            (int(count), float(at)) for count, at in (line.split() for line in process.stdout if line.endswith("\n"))
        ]
    due = [count for count, at in printed if at <= printed[-1][1] - FLUSH_SECONDS] or [0]
    engine = database(tmp_path)
    with engine.connect() as connection:

        def value(query: str) -> object:
            return connection.execute(sa.text(query)).scalar()

        kept = value("SELECT count(*) FROM usage_records")
        assert value("PRAGMA integrity_check") == "ok"
        assert due[-1] <= kept <= printed[-1][0] + 10  # type: ignore[operator]
        assert value("SELECT count(DISTINCT request_id) FROM usage_records") == kept
        assert value("SELECT coalesce(sum(requests), 0) FROM usage_hours") == kept
    engine.dispose()
