"""Jobs by DPO with a scripted trainer: their metrics, their evaluation and their result files."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from loramux_adapters.finetuning.jobs.errors import EvaluationFailed
from loramux_adapters.finetuning.jobs.evaluation import Completion, Evaluator
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.preference_evaluation import summarize_preferences
from loramux_adapters.finetuning.jobs.states import JobState
from tests.helpers.fine_tuning_jobs import CharacterTokens, JobTestBed, has_ended, job_test_bed, messages, until

WANTED = {"method": "dpo", "beta": 0.3}


async def answer(version: Any, chat: Any, _most: int, _tools: Any, _parallel: bool) -> Completion:
    return Completion(f"{'adapter' if version else 'base'}: {chat[-1]['content']}", 1, 2, 0.01)


async def fail(*_: Any) -> Completion:
    raise EvaluationFailed("The engine refused a question.")


@pytest.fixture
def bed(tmp_path: Path, engine: sa.Engine) -> JobTestBed:
    return job_test_bed(tmp_path, engine, "prefer")


async def run_job(bed: JobTestBed, folder: Path, complete: Any = answer, context: int = 2000, **job: Any) -> JobRecord:
    publisher = bed.runner.publisher
    bed.runner.publisher = replace(publisher, evaluator=Evaluator(complete, CharacterTokens(), context, 10))
    pairs, held_out = bed.preference_file(folder), bed.preference_file(folder, start=12)
    created = bed.job(**{"training_file": pairs, "validation_file": held_out, "wanted": WANTED} | job)
    async with bed.supervisor.running():
        found = await until(bed, created, has_ended)
    assert found.state is JobState.SUCCEEDED, messages(bed, found)
    return found


def result(bed: JobTestBed, job: JobRecord, name: str) -> str:
    [file] = [file for file in job.result_files if bed.files.get(file).filename == name]
    return bed.files.path(file).read_text()


async def test_the_accuracy_is_that_of_the_adapter_that_is_the_result(bed: JobTestBed, tmp_path: Path) -> None:
    """The validation after step 4, the best one, and not after the last one."""
    job = await run_job(bed, tmp_path)
    found = job.progress.preference
    assert found is not None
    assert (found["pairs"], found["accuracy"]["mean"], found["reward_margin"]) == (12, pytest.approx(11 / 12), 4.0)
    assert found["reference"] == "the base"
    assert bed.library.added == [(job.name, 4)]
    assert job.progress.evaluation is None
    assert (job.progress.best_step, job.progress.reward_accuracy) == (4, 1.1)


async def test_the_answers_of_the_base_and_of_the_adapter_are_shown(bed: JobTestBed, tmp_path: Path) -> None:
    document = json.loads(result(bed, await run_job(bed, tmp_path), "preferences.json"))
    assert len(document["samples"]) == 5
    assert document["samples"][0] == {
        "line": 1,
        "messages": [{"role": "user", "content": "number 12"}],
        "preferred": "even",
        "non_preferred": "odd",
        "reference": "base: number 12",
        "adapter": "adapter: number 12",
    }


async def test_the_events_and_the_result_file_have_the_rewards(bed: JobTestBed, tmp_path: Path) -> None:
    job = await run_job(bed, tmp_path)
    rows = list(csv.DictReader(result(bed, job, "step_metrics.csv").splitlines()))
    assert rows[1]["train_reward_accuracy"] == "0.75"
    assert (rows[1]["valid_reward_accuracy"], rows[1]["valid_reward_margin"]) == ("0.7", "2.0")
    assert rows[1]["train_accuracy"] == ""
    said = messages(bed, job)
    assert "Step 2/6: training loss=0.50, reward accuracy=0.75" in said
    assert "The result is the adapter of step 4, which had the lowest validation loss, 0.40" in said
    assert any(
        message.startswith("Relative to the base, the adapter makes the preferred answer the likelier one in 11 of 12")
        for message in said
    )


async def test_questions_that_fail_do_not_lose_what_the_trainer_measured(bed: JobTestBed, tmp_path: Path) -> None:
    found = (await run_job(bed, tmp_path, fail)).progress.preference
    assert found is not None
    assert (found["pairs"], found["samples"]) == (12, [])


async def test_pairs_that_were_trained_on_are_left_out(bed: JobTestBed, tmp_path: Path) -> None:
    found = (await run_job(bed, tmp_path, validation_file=bed.preference_file(tmp_path, start=4))).progress.preference
    assert found is not None
    assert (found["pairs"], found["left_out"]) == (4, 8)


async def test_where_all_pairs_were_trained_on_nothing_is_measured(bed: JobTestBed, tmp_path: Path) -> None:
    job = await run_job(bed, tmp_path, validation_file=bed.preference_file(tmp_path))
    assert job.progress.preference is None
    assert "Nothing was compared: every validation example is in the training file too" in messages(bed, job)


async def test_an_adapter_that_was_chosen_by_the_validation_file_has_a_warning(bed: JobTestBed, tmp_path: Path) -> None:
    def warned(job: JobRecord) -> bool:
        return any("early stopping chose the adapter on this file" in message for message in messages(bed, job))

    assert not warned(await run_job(bed, tmp_path))
    assert warned(await run_job(bed, tmp_path, wanted=WANTED | {"lora": {"early_stopping_patience": 3}}))


async def test_an_answer_is_asked_for_within_the_context(bed: JobTestBed, tmp_path: Path) -> None:
    asked: list[int] = []

    async def complete(version: Any, chat: Any, most: int, tools: Any, parallel_tool_calls: bool) -> Completion:
        asked.append(most)
        return await answer(version, chat, most, tools, parallel_tool_calls)

    await run_job(bed, tmp_path, complete, context=12)
    assert max(asked) == 12 - len("number 12")


async def test_without_a_validation_file_nothing_is_evaluated(bed: JobTestBed, tmp_path: Path) -> None:
    job = await run_job(bed, tmp_path, validation_file=None)
    assert job.progress.preference is None
    assert "Nothing was compared with the base: the job has no validation file" in messages(bed, job)


@pytest.mark.parametrize(
    ("accuracy", "is_better"), [(0.5, False), (0.6, False), (0.75, True), (1.0, True), (0.0, False)]
)
def test_an_accuracy_is_better_than_chance_if_its_whole_interval_is(accuracy: float, is_better: bool) -> None:
    measured = {"valid_reward_accuracy": accuracy, "valid_reward_margin": 1.0}
    found = summarize_preferences(60, measured, "the base")
    assert found.is_better_than_chance is is_better
    assert found.accuracy.low <= accuracy <= found.accuracy.high
    assert ("not shown to be above chance" in found.sentence) is not is_better


def test_pairs_without_a_preference_are_right_by_chance() -> None:
    found = summarize_preferences(11, {"valid_reward_accuracy": 0.5, "valid_reward_margin": 0.0}, "the base")
    assert found.accuracy.estimate == 0.5
    assert "the likelier one in 5.5 of 11 held-out pairs" in found.sentence
    assert not found.is_better_than_chance
