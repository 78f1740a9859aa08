import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KILLS = 25
"""For more: `python -m tests.helpers.kill_loop FOLDER 200 SEED`."""


def test_whenever_the_process_is_killed_nothing_acknowledged_is_lost_and_nothing_is_half_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.helpers.kill_loop", str(tmp_path), str(KILLS), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{KILLS} kills" in done.stdout
