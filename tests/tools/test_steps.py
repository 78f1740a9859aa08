import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools.steps import SetupError, StepRunner

from tools import steps


def _run(script: str) -> None:
    with Path(os.devnull).open() as lock:
        StepRunner().run("doing it", ["/bin/sh", "-c", script], os.environ, lock.fileno())


def test_a_step_is_logged_without_the_output_of_its_program(capfd: pytest.CaptureFixture[str]) -> None:
    _run("echo out; echo err >&2")
    assert capfd.readouterr() == ("", "[   0 s] doing it\n")


def test_a_long_step_is_logged_as_still_running(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "HEARTBEAT_SECONDS", 0.1)
    _run("sleep 0.25")
    assert "doing it: still running" in capfd.readouterr().err


def test_the_error_of_a_failed_step_contains_the_end_of_its_output() -> None:
    with pytest.raises(SetupError, match=r"doing it: failed\n(    .*\n)*    the reason$") as caught:
        _run("seq 1 1000; echo the reason >&2; exit 1")
    assert len(str(caught.value).splitlines()) == 1 + steps.SHOWN_LINES


def test_a_step_that_outlives_a_killed_setup_still_holds_the_lock(tmp_path: Path) -> None:
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
