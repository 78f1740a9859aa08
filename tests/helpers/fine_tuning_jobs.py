"""Fine-tuning jobs with a scripted trainer, and a library that records what is added."""

import asyncio
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.finetuning.datasets.inspection import inspect_dataset
from loramux_adapters.finetuning.jobs.change_signal import ChangeSignal
from loramux_adapters.finetuning.jobs.job_runner import JobRunner
from loramux_adapters.finetuning.jobs.models import JobProgress, JobRecord, NewJob
from loramux_adapters.finetuning.jobs.planner import JobPlanner
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.result_publisher import ResultPublisher
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.supervisor import Supervisor
from loramux_adapters.finetuning.jobs.timings import JobTimings
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.jobs.work_folders import WorkFolders
from loramux_adapters.finetuning.trainer_process import TrainerLauncher
from loramux_adapters.models import AdapterName, VersionId, parse_digest
from tests.helpers import scripted_trainer
from tests.helpers.adapter_files import BASE
from tests.helpers.preferences import write_pairs

NAME = AdapterName("ft:tiny:local:test:1")


class CharacterTokens:
    """Counts each character as a token."""

    def count_prompt(self, messages: Any, tools: Any = ()) -> int:
        return sum(len(message["content"] or "") for message in messages)

    count_conversation = count_prompt


def job_record(state: JobState, **progress: Any) -> JobRecord:
    """A job record without a registry."""
    return JobRecord(
        number=1, id="ftjob-1", created_at=1, created_by="me", state=state, base="tiny", name=NAME, suffix=None,
        training_file="file-1", validation_file=None, seed=1, wanted={}, recipe=None, metadata=None, started_at=None,
        finished_at=None, attempts=0, progress=JobProgress(**progress), timings=JobTimings(),
        result_files=[], error=None,
    )  # fmt: skip


def training_lines(count: int = 12) -> bytes:
    lines = [
        {"messages": [{"role": "user", "content": f"number {i}"}, {"role": "assistant", "content": f"answer {i % 3}"}]}
        for i in range(count)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def scripted_launcher(behavior: str, *arguments: str, **options: Any) -> TrainerLauncher:
    """A launcher of the scripted trainer; see scripted_trainer.py for its behaviors."""
    command = (sys.executable, "-I", "-S", str(Path(scripted_trainer.__file__)), behavior, *arguments)
    return TrainerLauncher(**{"priority": "low", "command": command} | options)


@dataclass
class FakeLibrary:
    """Accepts every adapter, after raising each error in `add_errors`; `alias_errors` are raised by set_alias."""

    added: list[tuple[str, int]] = field(default_factory=list)
    origins: list[dict[str, str]] = field(default_factory=list)
    aliases: dict[str, VersionId] = field(default_factory=dict)
    add_errors: list[Exception] = field(default_factory=list)
    alias_errors: list[Exception] = field(default_factory=list)
    max_rank: int = 512

    async def ensure_rank(self, rank: int) -> None:
        if rank > self.max_rank:
            raise InvalidAdapter("the rank is above the engine's limit", where="adapter_config.json", found=rank)

    async def add(self, name: AdapterName, source: Any, *, actor: str, promote: bool, project: str) -> Any:
        if self.add_errors:
            raise self.add_errors.pop()
        self.added.append((name, source.step))
        self.origins.append(source.origin)
        return SimpleNamespace(id=VersionId(name, parse_digest(f"{source.step:012x}")))

    async def set_alias(self, name: AdapterName, targets: Any, *, actor: str) -> None:
        if self.alias_errors:
            raise self.alias_errors.pop()
        [digest] = targets
        self.aliases[name] = VersionId(name, digest)


@dataclass
class JobTestBed:
    """The parts of a server that fine-tuning jobs need."""

    registry: JobRegistry
    files: TrainingFiles
    library: FakeLibrary
    runner: JobRunner
    supervisor: Supervisor
    training_file: str

    def preference_file(self, folder: Path, count: int = 12, start: int = 0) -> str:
        """Upload a file of preference pairs, and return its id."""
        with write_pairs(folder / "pairs.jsonl", count, start).open("rb") as file:
            return self.files.add(file, "pairs.jsonl", "fine-tune", 0.0, _check).id

    def job(self, **changes: Any) -> JobRecord:
        new: dict[str, Any] = {
            "base": BASE.name,
            "name": NAME,
            "training_file": self.training_file,
            "validation_file": None,
            "suffix": None,
            "seed": 1,
            "wanted": {},
            "metadata": None,
            "created_by": "test",
        }
        return self.registry.create(NewJob(**new | changes), 1.0, max_waiting=100)


def _check(path: Path, _: str) -> dict[str, Any]:
    return inspect_dataset(path, CharacterTokens(), 99).model_dump()


def job_test_bed(folder: Path, engine: sa.Engine, behavior: str = "train", *arguments: str) -> JobTestBed:
    """Everything that jobs need, in a folder and the database `engine`; polls and retries faster than a server."""
    registry, files = JobRegistry(engine), TrainingFiles(engine, folder / "files")
    files.sweep()
    library = FakeLibrary()
    planner = JobPlanner(files, registry, BASE, folder, WorkFolders(folder / "jobs"), 16, lambda *_: {})
    runner = JobRunner(
        registry,
        planner,
        ResultPublisher(registry, library, files),  # type: ignore[arg-type]
        scripted_launcher(behavior, *arguments),
        changes=ChangeSignal(poll_seconds=0.05),
        retry_seconds=0.05,
    )
    record = files.add(io.BytesIO(training_lines()), "a.jsonl", "fine-tune", 0.0, _check)
    return JobTestBed(registry, files, library, runner, Supervisor(runner, restart_seconds=0.05), record.id)


async def until(
    bed: JobTestBed, job: JobRecord, condition: Callable[[JobRecord], bool], seconds: float = 30
) -> JobRecord:
    """Wait until the job's record meets a condition, and return it."""
    async with asyncio.timeout(seconds):
        while not condition(record := bed.registry.get(job.id)):  # noqa: ASYNC110 - as a client polls
            await asyncio.sleep(0.01)
    return record


def has_ended(job: JobRecord) -> bool:
    return job.state.has_ended


def messages(bed: JobTestBed, job: JobRecord) -> list[str]:
    """The messages of the job's events, oldest first."""
    return [event.message for event in reversed(bed.registry.events(job.id, None, 1000).items)]
