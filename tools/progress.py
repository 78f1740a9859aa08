"""Says in plain words what the set-up does and how long it has been at it, and runs the programs that do it."""

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
    """The set-up can't go on; the message says why and what to do."""


class Progress:
    """Lines of words on standard error, each with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def say(self, words: str) -> None:
        """Show one line."""
        print(f"[{time.monotonic() - self._started:4.0f} s] {words}", file=sys.stderr, flush=True)

    def run(self, words: str, command: Sequence[str], environment: Mapping[str, str], lock: int) -> None:
        """Run `command` to its end, saying `words`; raises SetupError with the end of its output if it fails.

        The child inherits the file descriptor `lock`: should we be killed, the lock stays taken until the child, too,
        has stopped writing.
        """
        self.say(words)
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock],
            ) as process:
                self._await(words, process)
            if process.returncode:
                output.seek(0)
                lines = output.read().strip().splitlines()[-SHOWN_LINES:]
                raise SetupError(f"{words}: failed\n" + "\n".join(f"    {line}" for line in lines))

    def _await(self, words: str, process: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                process.wait(timeout=HEARTBEAT_SECONDS)
            except subprocess.TimeoutExpired:
                self.say(f"{words}: still at it")
            else:
                return
