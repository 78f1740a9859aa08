"""Runs the programs of the setup, and logs each step with the time since the start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEARTBEAT_SECONDS = 15
SHOWN_LINES = 12


class SetupError(Exception):
    """The setup can't continue; the message says why and how to fix it."""


class StepRunner:
    """Runs steps and logs them to standard error, each line with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def log(self, message: str) -> None:
        """Print one line."""
        print(f"[{time.monotonic() - self._started:4.0f} s] {message}", file=sys.stderr, flush=True)

    def run(self, step: str, command: Sequence[str], environment: Mapping[str, str], lock: int) -> None:
        """Log `step` and run `command` to its end.

        The child inherits the file descriptor `lock`: if this process is killed, the lock is held until the child has
        exited too and no longer writes.

        Raises:
            SetupError: the command failed; the message contains the end of its output.

        """
        self.log(step)
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock],
            ) as process:
                self._wait(step, process)
            if process.returncode:
                output.seek(0)
                lines = output.read().strip().splitlines()[-SHOWN_LINES:]
                raise SetupError(f"{step}: failed\n" + "\n".join(f"    {line}" for line in lines))

    def _wait(self, step: str, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                process.wait(timeout=HEARTBEAT_SECONDS)
            except subprocess.TimeoutExpired:
                self.log(f"{step}: still running")
            else:
                return
