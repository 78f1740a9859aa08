"""The whole evaluation of a job, on made-up jobs whose truth is known; see tests/helpers/made_up_experiments.py."""

import json
from pathlib import Path

import pytest

from loramux_adapters.finetuning.jobs.evaluation import EvaluationResult
from tests.helpers.made_up_experiments import Experiment, evaluate, experiments, write_all

pytestmark = pytest.mark.slow

RESULTS: dict[str, EvaluationResult] = {}


async def evaluated(experiment: Experiment, folder: Path) -> EvaluationResult:
    """Evaluate each experiment once: some take seconds."""
    if experiment.name not in RESULTS:
        RESULTS[experiment.name] = await evaluate(experiment, folder)
    return RESULTS[experiment.name]


@pytest.mark.parametrize("experiment", experiments(), ids=lambda experiment: experiment.name)
async def test_verdict_measure_and_warnings_are_what_the_truth_demands(experiment: Experiment, tmp_path: Path) -> None:
    summary, answers, tried, questions, *_ = await evaluated(experiment, tmp_path)
    assert (summary.verdict, summary.measure) == (experiment.verdict, experiment.measure), summary.sentence
    assert {warning.code for warning in summary.warnings} == experiment.warnings
    assert len(answers) == len(summary.arms) * len(questions)
    assert tried
    if summary.verdict != "worse":
        assert "Keep" not in summary.sentence


def named(name: str) -> Experiment:
    return next(experiment for experiment in experiments() if experiment.name == name)


async def test_the_true_difference_is_in_the_interval(tmp_path: Path) -> None:
    for name in ("adapter better", "adapter equal", "adapter clearly worse", "adapter slightly worse"):
        made = named(name)
        gain = (await evaluated(made, tmp_path)).summary.gain
        assert gain.low <= made.adapter - made.prompted <= gain.high, name


async def test_an_adapter_with_more_fields_right_is_better_although_no_answer_is_all_right(tmp_path: Path) -> None:
    """T1: 0.00 exact for every arm, field accuracy 0.43 against 0.15: the job said "Keep prompting, no gain"."""
    summary = (await evaluated(named("JSON, never all right"), tmp_path)).summary
    assert {arm.scores["same JSON"].estimate for arm in summary.arms.values()} == {0.0}
    assert (summary.verdict, summary.measure) == ("better", "field accuracy")
    assert summary.rival != "base"
    assert summary.sentence.startswith("The adapter is better than the base with")


async def test_a_difference_within_the_margin_is_as_good_and_the_reason_says_which_is_better(tmp_path: Path) -> None:
    summary = (await evaluated(named("adapter better, but within the margin"), tmp_path)).summary
    assert summary.gain.low > 0
    assert summary.reason == "the difference is better, but by less than the margin of 0.05"


async def test_wrong_labels_are_those_that_are_wrong(tmp_path: Path) -> None:
    made = named("wrong labels")
    result = await evaluate(made, tmp_path)
    (warning,) = result.summary.warnings
    lines = (tmp_path / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(lines[line - 1])["messages"][1]["content"] for line in warning.items} == set(made.truth)


def test_reports_and_rows_are_written_for_a_judge_who_does_not_know_the_truth(tmp_path: Path) -> None:
    write_all(tmp_path)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert len(truth) == len(experiments())
    for name in truth:
        report = json.loads((tmp_path / name / "report.json").read_text())
        rows = [json.loads(line) for line in (tmp_path / name / "rows.jsonl").read_text().splitlines()]
        assert report["verdict"] == truth[name]["verdict"]
        assert {row["arm"] for row in rows} == report["arms"].keys()
