"""With a stand-in for the package wandb, which writes what it is called with to a file."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.jobs.models import JobEvent, JobRecord
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.wandb_runs import WandbRuns, arguments
from tests.helpers.adapter_files import BASE
from tests.helpers.fine_tuning_jobs import JobTestBed, job_record, job_test_bed, messages

STAND_IN = """
import json, os

def write(**call):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(call) + chr(10))

class Run:
    url = "https://wandb.test/run"
    def log(self, metrics, step):
        write(step=step, **metrics)
    def finish(self, exit_code=0):
        write(finish=exit_code)

def init(**options):
    if options["project"] == "forbidden":
        raise PermissionError(f"no such project for {os.environ['WANDB_API_KEY']}")
    names = "WANDB_DISABLE_CODE", "WANDB_MODE", "WANDB_DIR"
    write(settings={name: os.environ.get(name) for name in names}, **options)
    assert os.path.isdir(os.environ["WANDB_DIR"])
    return Run()
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "wandb.py").write_text(STAND_IN)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    return tmp_path / "calls"


@pytest.fixture
def bed(tmp_path: Path, engine: sa.Engine) -> JobTestBed:
    return job_test_bed(tmp_path, engine)


def read(calls: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


async def until(calls: Path, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        while len(found := read(calls)) < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def following(bed: JobTestBed, calls: Path) -> AsyncIterator[None]:
    folder = calls.parent / "runs"
    folder.mkdir(exist_ok=True)
    environ = {"PYTHONPATH": str(calls.parent), "CALLS": str(calls), "WANDB_MODE": "offline", "WANDB_API_KEY": "secret"}
    environ["WANDB_DIR"] = str(folder)
    runs = WandbRuns(bed.registry, BASE.name, environ, poll_seconds=0.01)
    async with running_task(runs.run_forever()):
        yield


def start(bed: JobTestBed, project: str = "tone", **changes: Any) -> JobRecord:
    integration = {"type": "wandb", "wandb": {"project": project, "tags": ["a"]}}
    job = bed.job(**{"integrations": [integration]} | changes)
    bed.registry.move(job.id, JobState.QUEUED, 1.0)
    return bed.registry.move(job.id, JobState.RUNNING, 1.0)


def measure(bed: JobTestBed, job: JobRecord, step: int) -> None:
    metrics = {"step": step, "train_loss": 1 / step}
    bed.registry.update_running(job.id, 1.0, JobEvent(f"Step {step}", metrics=metrics))


async def test_the_metrics_of_a_job_are_sent_as_they_come_and_its_end(bed: JobTestBed, calls: Path) -> None:
    job = start(bed)
    measure(bed, job, 1)
    async with following(bed, calls):
        [started, first] = await until(calls, 2)
        measure(bed, job, 2)
        await until(calls, 3)
        bed.registry.move(job.id, JobState.SUCCEEDED, 2.0)
        sent = await until(calls, 4)
    assert (started["id"], started["project"], started["resume"]) == (job.id, "tone", "allow")
    kept = str(calls.parent / "runs")
    assert started["settings"] == {"WANDB_DISABLE_CODE": "true", "WANDB_MODE": "offline", "WANDB_DIR": kept}
    assert first == {"step": 1, "train_loss": 1.0}
    assert sent[2:] == [{"step": 2, "train_loss": 0.5}, {"finish": 0}]
    assert "The metrics are sent to Weights & Biases: https://wandb.test/run" in messages(bed, job)


async def test_a_run_is_continued_after_a_pause_and_after_a_restart(bed: JobTestBed, calls: Path) -> None:
    job = start(bed)
    measure(bed, job, 1)
    async with following(bed, calls):
        await until(calls, 2)
        bed.registry.move(job.id, JobState.PAUSED, 2.0)
        await until(calls, 3)
        bed.registry.move(job.id, JobState.QUEUED, 2.0)
        bed.registry.move(job.id, JobState.RUNNING, 2.0)
        await until(calls, 5)
    async with following(bed, calls):
        await until(calls, 7)
        bed.registry.move(job.id, JobState.FAILED, 3.0)
        sent = await until(calls, 8)
    starts = [call["id"] for call in sent if "project" in call]
    assert starts == [job.id] * 3
    assert sent[-1] == {"finish": 1}


async def test_metrics_are_sent_after_a_failure_of_the_database(
    bed: JobTestBed, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, read_metrics, failures = start(bed), bed.registry.metrics, iter([True, True])
    measure(bed, job, 1)

    def fail_twice(job_id: str) -> Any:
        if next(failures, False):
            raise StoreError("The database is away.")
        return read_metrics(job_id)

    monkeypatch.setattr(bed.registry, "metrics", fail_twice)
    async with following(bed, calls):
        sent = await until(calls, 2)
    assert sent[1] == {"step": 1, "train_loss": 1.0}
    assert len([call for call in sent if "project" in call]) == 1


async def test_a_failure_is_a_warning_and_is_not_repeated(
    bed: JobTestBed, calls: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = start(bed, "forbidden")
    text = "The metrics can't be sent to Weights & Biases: see the server's log"
    async with following(bed, calls), asyncio.timeout(20):
        while text not in messages(bed, job):  # noqa: ASYNC110 - as a client polls
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    assert messages(bed, job).count(text) == 1
    assert "no such project for [key]" in caplog.text
    assert "secret" not in caplog.text
    assert read(calls) == []
    assert bed.registry.get(job.id).state is JobState.RUNNING


async def test_a_job_without_an_integration_is_not_followed(bed: JobTestBed, calls: Path) -> None:
    start(bed, integrations=None)
    async with following(bed, calls):
        await asyncio.sleep(0.1)
    assert read(calls) == []


def test_what_is_missing_is_said(bed: JobTestBed, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(environ: dict[str, str]) -> str | None:
        return WandbRuns(bed.registry, BASE.name, environ).missing()

    assert "pip install wandb" in str(missing({}))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    assert "WANDB_API_KEY" in str(missing({}))
    assert missing({"WANDB_API_KEY": "key"}) is None
    assert missing({"WANDB_MODE": "offline", "WANDB_DIR": "runs"}) is None
    assert "needs WANDB_DIR" in str(missing({"WANDB_MODE": "offline"}))


def test_the_arguments_have_openai_s_defaults() -> None:
    job = job_record(JobState.RUNNING)
    found = arguments(job, {"project": "tone"})
    assert (found["name"], found["entity"]) == (job.id, None)
    assert found["tags"] == ["loramux/finetune", "loramux/tiny", f"loramux/{job.id}"]
    chosen = arguments(job, {"project": "tone", "name": "mine", "entity": "we", "tags": ["x" * 80]})
    assert (chosen["name"], chosen["entity"], chosen["tags"][-1]) == ("mine", "we", "x" * 64)
