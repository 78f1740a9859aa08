import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools.progress import Progress, SetupError

from tools import progress


def _run(script: str) -> None:
    with Path(os.devnull).open() as lock:
        Progress().run("doing it", ["/bin/sh", "-c", script], os.environ, lock.fileno())


def test_a_step_says_what_it_does_and_keeps_the_programs_words_to_itself(capfd: pytest.CaptureFixture[str]) -> None:
    _run("echo out; echo err >&2")
    assert capfd.readouterr() == ("", "[   0 s] doing it\n")


def test_a_long_step_says_that_it_is_still_at_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.1)
    _run("sleep 0.25")
    assert "doing it: still at it" in capfd.readouterr().err


def test_a_step_that_fails_shows_the_end_of_what_it_said() -> None:
    with pytest.raises(SetupError, match=r"doing it: failed\n(    .*\n)*    the reason$") as caught:
        _run("seq 1 1000; echo the reason >&2; exit 1")
    assert len(str(caught.value).splitlines()) == 1 + progress.SHOWN_LINES


def test_a_step_outlives_a_killed_set_up_only_with_the_lock(tmp_path: Path) -> None:
    began, ended, lock = tmp_path / "began", tmp_path / "ended", tmp_path / "lock"
    command = [sys.executable, "-m", "tests.helpers.processes.locked_step", str(lock), str(began), str(ended)]
    set_up = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    while not began.exists():
        assert set_up.poll() is None
        time.sleep(0.01)
    set_up.kill()
    set_up.wait()
    with lock.open("w") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        assert ended.exists()
