"""Jobs whose trainer is a few lines of Python, and a library that remembers what it was given."""

import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from loramux_adapters.finetuning.datasets.report import inspect
from loramux_adapters.finetuning.jobs.models import JobRecord, NewJob, Progress
from loramux_adapters.finetuning.jobs.planning import Plans
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.result_publisher import Delivery
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.supervisor import Supervisor
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.trainer_process import TrainingRun
from loramux_adapters.models import AdapterName, VersionId, parse_digest
from tests.helpers.adapter_files import BASE

NAME = AdapterName("ft:tiny:local:test:1")


class Letters:
    """A token a letter."""

    def prompt(self, messages: Any) -> int:
        return sum(len(message["content"]) for message in messages)

    whole = prompt


def job_record(state: JobState, **progress: Any) -> JobRecord:
    """A job as it stands, without a registry."""
    return JobRecord(
        number=1, id="ftjob-1", created_at=1, created_by="me", state=state, base="tiny", name=NAME, suffix=None,
        training_file="file-1", validation_file=None, seed=1, wanted={}, recipe=None, metadata=None, started_at=None,
        finished_at=None, attempts=0, progress=Progress(**progress), result_files=[], error=None,
    )  # fmt: skip


def training_lines(count: int = 12) -> bytes:
    lines = [
        {"messages": [{"role": "user", "content": f"number {i}"}, {"role": "assistant", "content": f"answer {i % 3}"}]}
        for i in range(count)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@dataclass(frozen=True)
class ScriptedRun(TrainingRun):
    """A trainer that is a few lines of Python; it finds `output` and `state`, both folders."""

    script: str = ""

    @property
    def command(self) -> list[str]:
        before = f"import json,os,signal,sys,time\noutput,state={str(self.output)!r},{str(self.state)!r}\n"
        before += "def say(**event): print(json.dumps(event), flush=True)\n"
        return [sys.executable, "-c", before + self.script]


@dataclass(frozen=True)
class ScriptedPlans(Plans):
    """Plans whose trainer is `script`."""

    script: str = ""

    def run(self, job: JobRecord) -> TrainingRun:
        return ScriptedRun(**vars(super().run(job)), script=self.script)


@dataclass
class FakeLibrary:
    """Takes everything in; `refused` is raised instead, once each."""

    added: list[tuple[str, int]] = field(default_factory=list)
    aliases: dict[str, VersionId] = field(default_factory=dict)
    refused: list[Exception] = field(default_factory=list)
    unnamable: list[Exception] = field(default_factory=list)
    """Raised, once each, where a name would be given."""

    async def add(self, name: AdapterName, source: Any, *, actor: str, promote: bool) -> Any:
        if self.refused:
            raise self.refused.pop()
        self.added.append((name, source.step))
        return SimpleNamespace(id=VersionId(name, parse_digest(f"{source.step:012x}")))

    async def set_alias(self, name: AdapterName, targets: Any, *, actor: str) -> None:
        if self.unnamable:
            raise self.unnamable.pop()
        [digest] = targets
        self.aliases[name] = VersionId(name, digest)


@dataclass
class Bench:
    """All that jobs need, in a folder."""

    registry: JobRegistry
    files: TrainingFiles
    library: FakeLibrary
    supervisor: Supervisor
    training_file: str

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
        return self.registry.create(NewJob(**new | changes), 1.0, most_waiting=100)


def bench(folder: Path, engine: sa.Engine, script: str) -> Bench:
    """A bench on the database `engine`."""
    registry, files = JobRegistry(engine), TrainingFiles(engine, folder / "files")
    files.sweep()
    library = FakeLibrary()
    plans = ScriptedPlans(files, registry, BASE, folder, folder / "jobs", 16, lambda *_: {}, script=script)
    supervisor = Supervisor(registry, plans, Delivery(registry, library, files), "low")  # type: ignore[arg-type]
    record = files.add(
        io.BytesIO(training_lines()),
        "a.jsonl",
        "fine-tune",
        0.0,
        lambda path: inspect(path, Letters(), 99).model_dump(),
    )
    return Bench(registry, files, library, supervisor, record.id)
