"""The results of a job with a scripted trainer, mainly the comparison with the base."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from loramux_adapters.errors import AliasConflict, StoreError
from loramux_adapters.finetuning.datasets.inspection import inspect_dataset
from loramux_adapters.finetuning.jobs.errors import EvaluationFailed
from loramux_adapters.finetuning.jobs.evaluation import Completion, Evaluator
from loramux_adapters.finetuning.jobs.models import JobProgress, JobRecord
from loramux_adapters.finetuning.jobs.states import JobState
from tests.helpers.fine_tuning_jobs import (
    CharacterTokens,
    JobTestBed,
    has_ended,
    job_test_bed,
    messages,
    training_lines,
    until,
)

RESULTS = ["step_metrics.csv", "loss.png"]


@pytest.fixture
def bed(tmp_path: Path, engine: sa.Engine) -> JobTestBed:
    return job_test_bed(tmp_path, engine)


async def answer_correctly(version: Any, chat: Any, _most: int, _tools: Any, _parallel: bool) -> Completion:
    number = int(chat[-1]["content"].split()[-1])
    return Completion(f"answer {number % 3}" if version else "what?", 10 * len(chat), 2, 0.01)


async def fail_to_answer(*_: Any) -> Completion:
    raise EvaluationFailed("The engine refused a question of the comparison.")


def enable_evaluation(bed: JobTestBed, ask: Any) -> None:
    runner = bed.runner
    runner.publisher = replace(runner.publisher, evaluator=Evaluator(ask, CharacterTokens(), 2000, 10))


def validation_file(bed: JobTestBed, first: int, count: int = 12) -> str:
    lines = b"".join(training_lines(first + count).splitlines(keepends=True)[first:])

    def check(path: Path, _: str) -> dict[str, Any]:
        return inspect_dataset(path, CharacterTokens(), 99).model_dump()

    return bed.files.add(io.BytesIO(lines), "v.jsonl", "fine-tune", 0.0, check).id


async def run_job(bed: JobTestBed, **job: Any) -> JobRecord:
    created = bed.job(**job)
    async with bed.supervisor.running():
        found = await until(bed, created, has_ended)
    assert found.state is JobState.SUCCEEDED, messages(bed, found)
    return found


def names(bed: JobTestBed, job: JobRecord) -> list[str]:
    return [bed.files.get(file).filename for file in job.result_files]


async def test_a_job_ends_with_a_comparison_on_examples_that_it_was_not_trained_on(bed: JobTestBed) -> None:
    enable_evaluation(bed, answer_correctly)
    job = await run_job(bed, validation_file=validation_file(bed, 12))
    found = job.progress.evaluation or {}
    assert (found["questions"], found["verdict"]) == (10, "better")
    assert found["sentence"] in messages(bed, job)
    assert names(bed, job) == [*RESULTS, "comparison.json"]
    written = json.loads(bed.files.path(job.result_files[-1]).read_bytes())
    assert written["gain"] == found["gain"]
    assert len(written["answers"]) == 30
    assert {row["answer"] for row in written["answers"] if row["arm"] == "base"} == {"what?"}


async def test_what_makes_a_comparison_doubtful_is_an_event(bed: JobTestBed) -> None:
    enable_evaluation(bed, answer_correctly)
    job = await run_job(bed, validation_file=validation_file(bed, 6, 18))
    (leak,) = [message for message in messages(bed, job) if message.startswith("Comparison: ")]
    assert leak == "Comparison: 6 of 18 held-out prompts are in the training data too, and were left out"
    (stored,) = (job.progress.evaluation or {})["warnings"]
    assert (stored["code"], f"Comparison: {stored['message']}") == ("leak", leak)


async def test_a_job_without_a_validation_file_reports_that_nothing_was_compared(bed: JobTestBed) -> None:
    enable_evaluation(bed, answer_correctly)
    job = await run_job(bed)
    assert job.progress.evaluation is None
    assert any("has no validation file" in message for message in messages(bed, job))
    assert names(bed, job) == RESULTS


async def test_validation_examples_that_were_trained_on_are_not_compared(bed: JobTestBed) -> None:
    enable_evaluation(bed, answer_correctly)
    job = await run_job(bed, validation_file=validation_file(bed, 0, 12))
    assert job.progress.evaluation is None
    assert any("every validation example is in the training file" in message for message in messages(bed, job))


async def test_a_failed_comparison_does_not_fail_the_job(bed: JobTestBed) -> None:
    enable_evaluation(bed, fail_to_answer)
    job = await run_job(bed, validation_file=validation_file(bed, 12))
    assert job.progress == JobProgress.model_validate(job.progress.model_dump() | {"evaluation": None})
    assert any("were not compared: The engine refused" in message for message in messages(bed, job))
    assert bed.library.aliases


class RecordingObserver:
    """Records its calls; its database fails."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def queue_changed(self, count: int) -> None:
        self.calls.append(("waiting", count))

    def started(self, job: JobRecord) -> None:
        self.calls.append(("started", job.progress.step))

    def progressed(self, progress: JobProgress) -> None:
        self.calls.append(("step", progress.step))

    def stopped(self, job: JobRecord) -> None:
        self.calls.append(("stopped", job.state, job.progress.tokens))
        raise StoreError("The database is away.")


async def test_the_observer_gets_the_queue_the_steps_and_the_ends_and_its_errors_stop_nothing(bed: JobTestBed) -> None:
    observer = RecordingObserver()
    bed.runner.observer = observer
    first, second = bed.job(), bed.job()
    end = ("stopped", JobState.SUCCEEDED, 60)
    async with bed.supervisor.running(), asyncio.timeout(30):
        while observer.calls.count(end) < 2:  # noqa: ASYNC110 - it is called in a thread
            await asyncio.sleep(0.01)
    assert has_ended(bed.registry.get(first.id))
    assert has_ended(bed.registry.get(second.id))
    assert observer.calls[0] == ("waiting", 2)
    steps = [value for what, value, *_ in observer.calls if what == "step"]
    assert steps[0] == 0
    assert steps.count(6) >= 2
    assert observer.calls[observer.calls.index(end) + 1] == ("waiting", 1)


class Aliases:
    """Model aliases that records what is set, after raising `error` if it has one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.made = error, dict[str, str]()

    async def set(self, name: str, target: str, *, actor: str) -> None:
        if self.error:
            error, self.error = self.error, None
            raise error
        self.made[name] = target


@pytest.mark.parametrize("error", [None, StoreError("The database is away.")])
async def test_a_job_makes_its_alias_when_it_succeeds(bed: JobTestBed, error: Exception | None) -> None:
    aliases = Aliases(error)
    bed.runner.publisher = replace(bed.runner.publisher, aliases=aliases)  # type: ignore[arg-type]
    job = await run_job(bed, alias="support")
    assert job.state is JobState.SUCCEEDED
    assert aliases.made == {"support": job.name}
    assert "The model can be requested as support too" in messages(bed, job)


async def test_an_alias_that_is_taken_meanwhile_is_a_warning(bed: JobTestBed) -> None:
    aliases = Aliases(AliasConflict("support is the name of an adapter."))
    bed.runner.publisher = replace(bed.runner.publisher, aliases=aliases)  # type: ignore[arg-type]
    job = await run_job(bed, alias="support")
    assert job.state is JobState.SUCCEEDED
    assert "The alias support was not made: support is the name of an adapter." in messages(bed, job)
