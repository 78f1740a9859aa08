"""The trainer process as its parent sees it: started with a low priority, read event by event, and stopped."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loramux_adapters.finetuning.errors import TrainerCrashed
from loramux_adapters.finetuning.events import Failed, TrainerEvent, parse_event
from loramux_adapters.finetuning.training_run import TrainingRun

TRAINER_COMMAND = (sys.executable, "-m", "loramux_adapters.finetuning.trainer")
RUN_FILE, LOG_FILE = "run.json", "trainer.log"
MAX_EVENT_BYTES = 1 << 16
LOG_TAIL_BYTES = 2000
"""The part of the log that is reported with a crash."""

Priority = Literal["idle", "low", "equal"]
"""The trainer's share of a CPU that the engine wants too: what is left over, about a tenth, or half."""
LOW_PRIORITY_NICE = 10
"""The kernel's weight of this nice value is 110; that of the engine's, 0, is 1,024."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainerProcess:
    """A running trainer; started by `TrainerLauncher`."""

    process: asyncio.subprocess.Process
    log: Path

    async def events(self) -> AsyncIterator[TrainerEvent]:
        """Yield the trainer's events until it exits.

        Raises:
            TrainingError: the trainer gave up, for a reason that the user can fix.
            TrainerCrashed: it exited for another reason, or wrote something else than events.
        """
        try:
            async for line in _stdout(self.process):
                event = _parse(line)
                if isinstance(event, Failed):
                    raise event.as_error()
                yield event
        except ValueError as error:  # a line of more than MAX_EVENT_BYTES
            raise TrainerCrashed("the trainer wrote a line that is not an event") from error
        if await self.process.wait() != 0:
            raise TrainerCrashed(f"the trainer exited with code {self.process.returncode}:\n{self._log_tail()}")

    def pause(self) -> None:
        """Ask the trainer to finish its step, save its state and exit."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """Kill the trainer; states that it has saved remain."""
        with suppress(ProcessLookupError):
            self.process.kill()

    async def stop(self, save_timeout: float) -> None:
        """Pause the trainer and wait for its exit; kill it after `save_timeout` seconds."""
        self.pause()
        try:
            await asyncio.wait_for(self._drain(), save_timeout)
        except TimeoutError:
            _log.warning("the trainer did not save its state within %g seconds and is killed", save_timeout)
        finally:
            self.kill()
            await self.process.wait()

    async def _drain(self) -> None:
        """Wait for the exit, reading the pipe meanwhile: a full pipe would keep the trainer from exiting."""
        while await _stdout(self.process).read(MAX_EVENT_BYTES):
            pass
        await self.process.wait()

    def _log_tail(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


@dataclass(frozen=True)
class TrainerLauncher:
    """Starts trainer processes.

    `command` is started with the path of the run file as its last argument. `save_timeout` is the time, in seconds,
    that a trainer may take to save its state when it is stopped.
    """

    priority: Priority = "idle"
    command: Sequence[str] = TRAINER_COMMAND
    save_timeout: float = 60.0

    @asynccontextmanager
    async def launch(self, run: TrainingRun, folder: Path, lock_fd: int | None = None) -> AsyncIterator[TrainerProcess]:
        """Run a trainer while the context lasts; when it is left, a trainer that still runs saves its state and exits.

        Writes RUN_FILE to `folder` and appends the trainer's standard error to LOG_FILE there. The trainer inherits
        the descriptor `lock_fd`, so it holds the lock even when this process is killed.

        Raises:
            OSError: the files can't be written, or the process can't be started.
        """
        run.write(folder / RUN_FILE)
        with (folder / LOG_FILE).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                str(folder / RUN_FILE),
                stdin=asyncio.subprocess.PIPE,  # never written to: the trainer pauses when this process closes it
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                pass_fds=() if lock_fd is None else (lock_fd,),
                start_new_session=True,  # a Ctrl-C reaches this process only, which then pauses the trainer
                limit=MAX_EVENT_BYTES,
            )
        _lower_priority(process.pid, self.priority)
        trainer = TrainerProcess(process, folder / LOG_FILE)
        try:
            yield trainer
        finally:
            await trainer.stop(self.save_timeout)


def _stdout(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise RuntimeError("a trainer is started with a pipe")
    return process.stdout


def _lower_priority(pid: int, priority: Priority) -> None:
    """Lower the priority of a process that has no threads yet: those that it starts inherit it."""
    with suppress(ProcessLookupError, PermissionError):
        if priority == "low":
            os.setpriority(os.PRIO_PROCESS, pid, LOW_PRIORITY_NICE)
        elif priority == "idle":
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _parse(line: bytes) -> TrainerEvent:
    try:
        return parse_event(line)
    except ValueError as error:
        raise TrainerCrashed(f"the trainer wrote a line that is not an event: {line!r:.200}") from error
