"""Sends the metrics of jobs with a Weights & Biases integration, each by a process of its own; see wandb_process.

It reads what the registry has, so no training waits for it, and a server that starts sends all of a running job.
"""

import asyncio
import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from loramux_adapters.errors import AdapterError, StoreError
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState

COMMAND = (sys.executable, "-m", "loramux_adapters.finetuning.wandb_process")
_SECONDS = 60.0
"""Longest wait for a process to accept metrics, or to send the last ones."""
_MAX_TAG_LENGTH = 64
_QUIET = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true"}
"""The library sends no output, no code, no name of a repository. What else it collects of a machine, such as its
packages and the use of its hardware, its own variables turn off."""
_MAX_LOGGED_BYTES = 2048
T = TypeVar("T")
_log = logging.getLogger(__name__)


def arguments(job: JobRecord, integration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `wandb.init`, with OpenAI's defaults."""
    tags = ["loramux/finetune", f"loramux/{job.base}", f"loramux/{job.id}", *(integration.get("tags") or ())]
    return {
        "id": job.id,
        "project": integration["project"],
        "entity": integration.get("entity"),
        "name": integration.get("name") or job.id,
        "tags": [tag[:_MAX_TAG_LENGTH] for tag in tags],
        "job_type": "fine-tune",
        "config": {
            "model": job.base,
            "fine_tuned_model": job.name,
            "fine_tuning_job_id": job.id,
            "training_file": job.training_file,
            "validation_file": job.validation_file,
            "seed": job.seed,
            "hyperparameters": job.recipe,
        },
    }


@dataclass
class WandbRuns:
    """Follows the jobs on `base`; of several servers with one database, only the one that trains does so."""

    registry: JobRegistry
    base: str
    environ: Mapping[str, str]
    """The environment of the processes, with the library's API key."""
    command: Sequence[str] = COMMAND
    poll_seconds: float = 2.0
    now: Callable[[], float] = time.time
    _failed: set[str] = field(default_factory=set)
    """Jobs whose metrics could not be sent; they are not tried again."""

    def missing(self) -> str | None:
        """Return what is missing on this machine to send metrics, None if nothing is."""
        if importlib.util.find_spec("wandb") is None:
            return "the server lacks the package wandb: `pip install wandb`"
        if self.environ.get("WANDB_MODE") == "offline":
            return None if self.environ.get("WANDB_DIR") else "WANDB_MODE=offline needs WANDB_DIR, where the runs stay"
        return None if self.environ.get("WANDB_API_KEY") else "the server's environment has no WANDB_API_KEY"

    async def run_forever(self) -> None:
        """Follow each job that has an integration."""
        followed: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                followed = {job: task for job, task in followed.items() if not task.done()}
                for job in await self._unfollowed(self._failed | set(followed)):
                    followed[job.id] = group.create_task(self._follow(job))
                await asyncio.sleep(self.poll_seconds)

    async def _unfollowed(self, known: set[str]) -> list[JobRecord]:
        with suppress(StoreError):  # they are found at the next poll
            unfinished = await asyncio.to_thread(self.registry.unfinished, self.base)
            return [job for job in unfinished if job.integrations and job.id not in known and self.missing() is None]
        return []

    async def _follow(self, job: JobRecord) -> None:
        """Send the metrics of a job until it ends or is paused."""
        try:
            while job.state.is_waiting:
                await asyncio.sleep(self.poll_seconds)
                job = await self._read(self.registry.get, job.id)
            if job.state is JobState.RUNNING and job.integrations:
                async with asyncio.TaskGroup() as group:
                    for integration in job.integrations:
                        group.create_task(self._send(job, arguments(job, integration["wandb"])))
        except Exception as error:  # noqa: BLE001 - whatever it is, the job goes on
            _log.warning("the metrics of job %s are not sent to Weights & Biases", job.id, exc_info=error)
            self._failed.add(job.id)
            await self._note(
                job, JobEvent("The metrics can't be sent to Weights & Biases: see the server's log", "warn")
            )

    async def _send(self, job: JobRecord, start: Mapping[str, Any]) -> None:
        """Send all metrics that the job has and gets.

        Raises:
            Exception: the process failed or stalls.
        """
        async with _process(self.command, self.environ) as process:
            await _write(process, start)
            url = json.loads(await asyncio.wait_for(_pipe(process.stdout).readline(), _SECONDS))["url"]
            await self._note(
                job, JobEvent(f"The metrics are sent to Weights & Biases: {url or 'offline, to WANDB_DIR'}")
            )
            sent, state = 0, JobState.RUNNING
            while state is JobState.RUNNING:
                state = (await self._read(self.registry.get, job.id)).state  # before the last metrics are read
                metrics = await self._read(self.registry.metrics, job.id)
                for measured in metrics[sent:]:
                    values = {key: value for key, value in measured.items() if key != "step"}
                    await _write(process, {"step": measured["step"], "metrics": values})
                sent = len(metrics)
                if state is JobState.RUNNING:
                    await asyncio.sleep(self.poll_seconds)
            if state.has_ended:
                await _write(process, {"finish": 0 if state is JobState.SUCCEEDED else 1})
            _pipe(process.stdin).close()
            await asyncio.wait_for(process.wait(), _SECONDS)

    async def _read(self, read: Callable[[str], T], job: str) -> T:
        """Read of a job from the registry, once the database can be reached."""
        while True:
            try:
                return await asyncio.to_thread(read, job)
            except StoreError as error:
                _log.warning("the metrics of job %s can't be read; this is tried again", job, exc_info=error)
                await asyncio.sleep(self.poll_seconds)

    async def _note(self, job: JobRecord, event: JobEvent) -> None:
        """Add an event to the job, unless it has ended meanwhile."""
        with suppress(AdapterError):
            await asyncio.to_thread(self.registry.update_running, job.id, self.now(), event)


@asynccontextmanager
async def _process(command: Sequence[str], environ: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process, with a folder of its own for the library's files unless WANDB_DIR names one.

    When the context ends, both are gone. If it ends with an error, what the process said last is logged.
    """
    with tempfile.TemporaryDirectory(prefix="loramux-wandb-") as folder, (Path(folder) / "stderr").open("wb+") as said:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=said, env={"WANDB_DIR": folder, **environ, **_QUIET}
        )
        try:
            yield process
        except Exception:
            _log.warning("the process that sends metrics said: %r", _last_words(said, environ))
            raise
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _last_words(said: BinaryIO, environ: Mapping[str, str]) -> str:
    """Return the end of what a process wrote, without the library's API key."""
    said.seek(max(0, said.seek(0, os.SEEK_END) - _MAX_LOGGED_BYTES))
    text, key = said.read().decode(errors="replace"), environ.get("WANDB_API_KEY")
    return text.replace(key, "[key]") if key else text


async def _write(process: asyncio.subprocess.Process, line: Mapping[str, Any]) -> None:
    stdin = _pipe(process.stdin)
    stdin.write(json.dumps(line).encode() + b"\n")
    await asyncio.wait_for(stdin.drain(), _SECONDS)


def _pipe(pipe: T | None) -> T:
    if pipe is None:
        raise RuntimeError("The process was started without this pipe.")
    return pipe
