import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.bursts import Traffic
from benchmarks.finetune import command as bench_finetune
from benchmarks.finetune import during_training as beside
from benchmarks.finetune import jobs_api as finetuning
from benchmarks.finetune.finetune_quality import Lesson
from benchmarks.progress import Steps
from loramux_loadtests.report import Report
from loramux_loadtests.servers import ServerSpec, Setup
from tests.helpers.fake_openai_process import fake_spec, small_base


async def test_serving_is_measured_with_a_job_and_without_for_each_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "POLL_S", 0.01)
    monkeypatch.setattr(beside, "ENDS_WITHIN_S", 0.01)
    claims = []

    def server(setup: Setup, data: Path) -> ServerSpec:
        claims.append(setup.environment["LORAMUX_TRAINING__PRIORITY"])
        return fake_spec("endless", "loramux")

    monkeypatch.setattr(beside, "loramux", server)
    (tmp_path / "train.jsonl").write_text("{}\n")
    setup, traffic = Setup(small_base(tmp_path), {}, {}, {}), Traffic(streams=2, tokens=4)
    with Steps() as steps:
        report = await beside.beside(setup, tmp_path, steps, data=tmp_path / "train.jsonl", pairs=3, traffic=traffic)
    assert claims == ["idle", "low", "equal"]
    assert len(report.rounds) == 3 * 3
    found = {finding.what: finding.spread.median for finding in report.findings}
    assert found["idle: output throughput, with a job / without"] > 0
    assert found["equal: the job meanwhile"] == pytest.approx(10)  # each look at the fake job lets it go one step on


def run(*words: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(bench_finetune.main)
    result = CliRunner().invoke(app, ["--base", "/b", *words])
    return result.exit_code, " ".join(result.output.split())


def test_a_goal_without_a_number_is_refused() -> None:
    code, output = run("--data", "cards", "--goal", "cards:exact=high")
    assert code == 2
    assert "DATA:SCORE=SHARE" in output


def test_each_data_set_has_its_own_goals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    async def learn(setup: Setup, scratch: Path, steps: Steps, *, lessons: object, limit: int | None) -> Report:
        given.append((lessons, limit))
        return Report("", "", [], {}, [])

    monkeypatch.setattr(bench_finetune, "learn", learn)
    words = ["--only", "quality", "--data", "x/cards", "--data", "x/snips", "--goal", "cards:exact=0.85"]
    code, _ = run(*words, "--goal", "snips:valid JSON=0.98", "--limit", "5", "--results", str(tmp_path))
    assert code == 0
    cards, snips = Path("x/cards"), Path("x/snips")
    expected = [Lesson(cards, {"exact": 0.85}), Lesson(snips, {"valid JSON": 0.98})]
    assert given == [(expected, 5)]
    assert json.loads((tmp_path / "finetune-quality.json").read_text())["findings"] == []


def test_a_part_that_is_none_is_refused() -> None:
    code, output = run("--only", "nonsense")
    assert (code, "choose of quality, beside" in output) == (2, True)
