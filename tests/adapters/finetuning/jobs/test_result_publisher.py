"""What comes of a job whose trainer is scripted; the comparison at its end, for the most part."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from loramux_adapters.errors import StoreError
from loramux_adapters.evaluation.evaluator import Examiner, Reply
from loramux_adapters.finetuning.datasets.report import inspect
from loramux_adapters.finetuning.jobs.errors import TrialFailed
from loramux_adapters.finetuning.jobs.models import JobRecord, Progress
from loramux_adapters.finetuning.jobs.states import JobState
from tests.adapters.finetuning.jobs.test_supervisor import QUICK, has_ended, messages, until
from tests.helpers.fine_tuning_jobs import Bench, Letters, bench, training_lines

RESULTS = ["step_metrics.csv", "loss.png"]


@pytest.fixture
def made(tmp_path: Path, engine: sa.Engine) -> Bench:
    return bench(tmp_path, engine, QUICK)


async def knows_it_all(version: Any, chat: Any, _most: int) -> Reply:
    number = int(chat[-1]["content"].split()[-1])
    return Reply(f"answer {number % 3}" if version else "what?", 10 * len(chat), 2, 0.01)


async def breaks_down(*_: Any) -> Reply:
    raise TrialFailed("The engine refused a question of the comparison.")


def examined(made: Bench, ask: Any) -> None:
    supervisor = made.supervisor
    supervisor.delivery = replace(supervisor.delivery, examiner=Examiner(ask, Letters(), 2000, 10))


def validation_file(made: Bench, first: int, count: int = 12) -> str:
    lines = b"".join(training_lines(first + count).splitlines(keepends=True)[first:])

    def check(path: Path) -> dict[str, Any]:
        return inspect(path, Letters(), 99).model_dump()

    return made.files.add(io.BytesIO(lines), "v.jsonl", "fine-tune", 0.0, check).id


async def done(made: Bench, **job: Any) -> JobRecord:
    created = made.job(**job)
    async with made.supervisor.working():
        found = await until(made, created, has_ended)
    assert found.state is JobState.SUCCEEDED, messages(made, found)
    return found


def names(made: Bench, job: JobRecord) -> list[str]:
    return [made.files.get(file).filename for file in job.result_files]


async def test_a_job_ends_with_a_comparison_on_what_it_has_not_learned(made: Bench) -> None:
    examined(made, knows_it_all)
    job = await done(made, validation_file=validation_file(made, 12))
    trial = job.progress.trial or {}
    assert (trial["questions"], trial["verdict"]) == (10, "better")
    assert trial["sentence"] in messages(made, job)
    assert names(made, job) == [*RESULTS, "comparison.json"]
    written = json.loads(made.files.path(job.result_files[-1]).read_bytes())
    assert written["gain"] == trial["gain"]
    assert len(written["answers"]) == 30
    assert {row["answer"] for row in written["answers"] if row["arm"] == "base"} == {"what?"}


async def test_a_job_without_a_validation_file_says_that_nothing_was_compared(made: Bench) -> None:
    examined(made, knows_it_all)
    job = await done(made)
    assert job.progress.trial is None
    assert any("has no validation file" in message for message in messages(made, job))
    assert names(made, job) == RESULTS


async def test_a_validation_file_that_was_learned_proves_nothing(made: Bench) -> None:
    examined(made, knows_it_all)
    job = await done(made, validation_file=validation_file(made, 0, 12))
    assert job.progress.trial is None
    assert any("has learned all of it" in message for message in messages(made, job))


async def test_a_comparison_that_fails_takes_nothing_from_the_job(made: Bench) -> None:
    examined(made, breaks_down)
    job = await done(made, validation_file=validation_file(made, 12))
    assert job.progress == Progress.model_validate(job.progress.model_dump() | {"trial": None})
    assert any("were not compared: The engine refused" in message for message in messages(made, job))
    assert made.library.aliases


class Watching:
    """An observer that remembers, and whose database may be away."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def waiting(self, count: int) -> None:
        self.told.append(("waiting", count))

    def began(self, job: JobRecord) -> None:
        self.told.append(("began", job.progress.step))

    def progressed(self, progress: Progress) -> None:
        self.told.append(("step", progress.step))

    def stopped(self, job: JobRecord) -> None:
        self.told.append(("stopped", job.state, job.progress.tokens))
        raise StoreError("The database is away.")


async def test_who_looks_on_hears_of_the_queue_the_steps_and_the_ends_and_disturbs_nothing(made: Bench) -> None:
    watching = Watching()
    made.supervisor.observer = watching
    first, second = made.job(), made.job()
    end = ("stopped", JobState.SUCCEEDED, 60)
    async with made.supervisor.working(), asyncio.timeout(30):
        while watching.told.count(end) < 2:  # noqa: ASYNC110 - it is told in a thread
            await asyncio.sleep(0.01)
    assert has_ended(made.registry.get(first.id))
    assert has_ended(made.registry.get(second.id))
    assert watching.told[0] == ("waiting", 2)
    steps = [value for what, value, *_ in watching.told if what == "step"]
    assert steps[0] == 0
    assert steps.count(6) >= 2
    assert watching.told[watching.told.index(end) + 1] == ("waiting", 1)
