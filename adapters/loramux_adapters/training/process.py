"""Starts the trainer as a process of its own and hands its events on as they come."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loramux_adapters.training.errors import TrainingError
from loramux_adapters.training.events import Event, Failed, parse_event

LOG_TAIL = 2000  # bytes of the trainer's own words that a crash is reported with
PATIENCE = 30  # seconds that an interrupted trainer has to clean up


@dataclass(frozen=True)
class TrainingRun:
    """What to train, from what, to where."""

    base: Path
    base_name: str
    data: Path
    recipe: Path
    output: Path

    @property
    def command(self) -> list[str]:
        """The trainer's command line."""
        return [
            *(sys.executable, "-m", "loramux_adapters.training.trainer"),
            *("--base", str(self.base), "--base-name", self.base_name),
            *("--data", str(self.data), "--recipe", str(self.recipe), "--output", str(self.output)),
        ]


def train(run: TrainingRun) -> Iterator[Event]:
    """Run the trainer to its end; raises TrainingError when it leaves no adapter.

    Closing the iterator early (or an interrupt in the caller) stops the trainer and waits until it has cleaned up.
    """
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(run.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        try:
            yield from _events(child.stdout)
            if child.wait() != 0:
                raise TrainingError(f"the trainer ended with code {child.returncode}:\n{_tail(log)}")
        finally:
            _stop(child)


def _events(lines: IO[bytes] | None) -> Iterator[Event]:
    for line in lines or ():
        event = parse_event(line)
        if isinstance(event, Failed):
            raise TrainingError(event.message)
        yield event


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout:
        child.stdout.close()


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, 2)
    log.seek(max(0, size - LOG_TAIL))
    return log.read().decode(errors="replace").strip()
