"""The trainer as a child of the server: started with little claim on the CPU, listened to, and stopped."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loramux_adapters.finetuning.errors import TrainerCrashed
from loramux_adapters.finetuning.events import Event, Failed, parse_event
from loramux_adapters.finetuning.trainer_process import TrainingRun

Priority = Literal["idle", "low", "equal"]
"""What the trainer gets of a CPU that the engine wants too: what is left over, about a tenth, or half."""
LOW = 10
"""Of the scheduler's nice values, each takes a tenth more than the one after it: 110 shares to the engine's 1,024."""

LONGEST_EVENT = 1 << 16
LOG_TAIL = 2000  # bytes of the trainer's own words that a crash is reported with
SAVING_SECONDS = 60.0
"""How long a trainer that was told to pause may take to end its step and save."""


@dataclass
class Trainer:
    """A trainer's process that has begun; made by `trainer`."""

    process: asyncio.subprocess.Process
    log: Path

    async def events(self) -> AsyncIterator[Event]:
        """Yield what it says until it ends; raises TrainingError if it gives up, TrainerCrashed if it just ends."""
        try:
            async for line in _stdout(self.process):
                event = _parsed(line)
                if isinstance(event, Failed):
                    raise event.as_error()
                yield event
        except ValueError as error:  # a line without an end
            raise TrainerCrashed("the trainer said what is not an event") from error
        if await self.process.wait() != 0:
            raise TrainerCrashed(f"the trainer ended with code {self.process.returncode}:\n{self._last_words()}")

    def pause(self) -> None:
        """Tell it to end its step, save where it is, and end."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """End it at once; what it has saved before stays."""
        with suppress(ProcessLookupError):
            self.process.kill()

    def _last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL))
            return file.read().decode(errors="replace").strip()


@asynccontextmanager
async def trainer(run: TrainingRun, log: Path, seat: int, priority: Priority) -> AsyncIterator[Trainer]:
    """Run the trainer while the context lasts; at its end it has ended, after saving where it is if it still ran.

    Its own words go to the file `log`. It inherits the descriptor `seat`. Raises OSError.
    """
    with log.open("ab") as words:
        process = await asyncio.create_subprocess_exec(
            *run.command,
            "--with-parent",
            stdin=asyncio.subprocess.PIPE,  # never written to: that it ends tells the trainer that we have
            stdout=asyncio.subprocess.PIPE,
            stderr=words,
            pass_fds=(seat,),
            start_new_session=True,  # a Ctrl-C is for the server, which tells the trainer to save where it is
            limit=LONGEST_EVENT,
        )
    _yield_to_others(process.pid, priority)
    running = Trainer(process, log)
    try:
        yield running
    finally:
        running.pause()
        try:
            await asyncio.wait_for(_drained(process), SAVING_SECONDS)
        finally:
            running.kill()
            await process.wait()


async def _drained(process: asyncio.subprocess.Process) -> None:
    """Wait for its end; a pipe that nobody empties would keep it from ending."""
    while await _stdout(process).read(LONGEST_EVENT):
        pass
    await process.wait()


def _stdout(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise RuntimeError("a trainer is started with a pipe")
    return process.stdout


def _yield_to_others(process: int, priority: Priority) -> None:
    """Lower the claim of a process that has no threads yet: those that it makes will inherit it."""
    with suppress(ProcessLookupError, PermissionError):
        if priority == "low":
            os.setpriority(os.PRIO_PROCESS, process, LOW)
        elif priority == "idle":
            os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))


def _parsed(line: bytes) -> Event:
    try:
        return parse_event(line)
    except ValueError as error:
        raise TrainerCrashed(f"the trainer said what is not an event: {line!r:.200}") from error
