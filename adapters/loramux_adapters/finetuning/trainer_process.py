"""Starts the trainer as a process of its own and hands its events on as they come."""

import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loramux_adapters.finetuning.errors import TrainerCrashed
from loramux_adapters.finetuning.events import Event, Failed, parse_event

LOG_TAIL = 2000  # bytes of the trainer's own words that a crash is reported with
PATIENCE = 60  # seconds that a paused trainer has to end its step and save


@dataclass(frozen=True)
class TrainingRun:
    """What to train, from what, to where."""

    base: Path
    base_name: str
    data: Path
    recipe: Path | None
    output: Path
    validation: Path | None = None
    state: Path | None = None
    """Where the trainer keeps what it can go on from; it starts anew each time if there is none."""
    save_seconds: float = 30.0
    device: str = "auto"
    threads: int | None = None

    @property
    def command(self) -> list[str]:
        """The trainer's command line."""
        options = {
            "base": self.base,
            "base-name": self.base_name,
            "data": self.data,
            "output": self.output,
            "recipe": self.recipe,
            "validation": self.validation,
            "state": self.state,
            "save-seconds": self.save_seconds,
            "device": self.device,
            "threads": self.threads,
        }
        given = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
        return [sys.executable, "-m", "loramux_adapters.finetuning.trainer", *(word for pair in given for word in pair)]


def train(run: TrainingRun) -> Generator[Event, None, None]:
    """Run the trainer to its end; raises TrainingError when it leaves no adapter, TrainerCrashed if that is our fault.

    Closing the generator early pauses the trainer and waits until it has saved where it is.
    """
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [*run.command, "--with-parent"],
            stdin=subprocess.PIPE,  # never written to: that it ends tells the trainer that we have
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for us: the trainer is told to save where it is
        )
        try:
            yield from _events(child.stdout)
            if child.wait() != 0:
                raise TrainerCrashed(f"the trainer ended with code {child.returncode}:\n{_tail(log)}")
        finally:
            _stop(child)


def _events(lines: IO[bytes] | None) -> Iterator[Event]:
    for line in lines or ():
        try:
            event = parse_event(line)
        except ValueError as error:
            raise TrainerCrashed(f"the trainer said what is not an event: {line!r:.200}") from error
        if isinstance(event, Failed):
            raise event.as_error()
        yield event


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe:
            pipe.close()


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, 2)
    log.seek(max(0, size - LOG_TAIL))
    return log.read().decode(errors="replace").strip()
