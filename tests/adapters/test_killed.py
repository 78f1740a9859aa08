import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_whenever_the_process_is_killed_no_acknowledged_change_is_lost_and_none_is_half_done(
    tmp_path: Path, kills: int
) -> None:
    """For more kills, run `python -m tests.helpers.kill_loop FOLDER 200 SEED`."""
    command = [sys.executable, "-m", "tests.helpers.kill_loop", str(tmp_path), str(kills), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{kills} kills" in done.stdout
