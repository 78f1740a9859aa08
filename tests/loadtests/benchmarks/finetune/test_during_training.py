import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.bursts import BurstTraffic
from benchmarks.finetune import command as bench_finetune
from benchmarks.finetune import during_training
from benchmarks.finetune import jobs_api as finetuning
from benchmarks.finetune.finetune_quality import DataSet
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport
from loramux_loadtests.servers import ServerSetup, ServerSpec
from tests.helpers.fake_openai_process import fake_spec, small_base


@pytest.mark.slow
async def test_serving_is_measured_with_a_job_and_without_for_each_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(during_training, "PAUSE_SETTLE_S", 0.01)
    claims = []

    def server(setup: ServerSetup, data: Path) -> ServerSpec:
        claims.append(setup.environment["LORAMUX_TRAINING__PRIORITY"])
        return fake_spec("endless", "loramux")

    monkeypatch.setattr(during_training, "loramux_spec", server)
    (tmp_path / "train.jsonl").write_text("{}\n")
    setup, traffic = ServerSetup(small_base(tmp_path), {}, {}, {}), BurstTraffic(streams=2, tokens=4)
    with StepProgress() as progress:
        report = await during_training.measure_during_training(
            setup, tmp_path, progress, data=tmp_path / "train.jsonl", pairs=3, traffic=traffic
        )
    assert claims == ["idle", "low", "equal"]
    assert len(report.rounds) == 3 * 3
    found = {metric.name: metric.spread.median for metric in report.metrics}
    assert found["idle: output throughput, with a job / without"] > 0
    assert found["equal: training speed"] == pytest.approx(10)  # each look at the fake job lets it go one step on


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(bench_finetune.main)
    result = CliRunner().invoke(app, ["--base", "/b", *arguments])
    return result.exit_code, " ".join(result.output.split())


def test_a_goal_without_a_number_is_refused() -> None:
    code, output = run("--data", "cards", "--goal", "cards:exact=high")
    assert code == 2
    assert "DATA:SCORE=SHARE" in output


def test_each_data_set_has_its_own_goals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    async def measure_quality(
        setup: ServerSetup, scratch: Path, progress: StepProgress, *, data_sets: object, limit: int | None
    ) -> BenchmarkReport:
        given.append((data_sets, limit))
        return BenchmarkReport("", "", [], {}, [])

    monkeypatch.setattr(bench_finetune, "measure_quality", measure_quality)
    arguments = ["--only", "quality", "--data", "x/cards", "--data", "x/snips", "--goal", "cards:exact=0.85"]
    code, _ = run(*arguments, "--goal", "snips:valid JSON=0.98", "--limit", "5", "--results", str(tmp_path))
    assert code == 0
    cards, snips = Path("x/cards"), Path("x/snips")
    expected = [DataSet(cards, {"exact": 0.85}), DataSet(snips, {"valid JSON": 0.98})]
    assert given == [(expected, 5)]
    assert json.loads((tmp_path / "finetune-quality.json").read_text())["findings"] == []


def test_an_unknown_part_is_refused() -> None:
    code, output = run("--only", "nonsense")
    message = " ".join(output.replace("│", " ").split())  # typer frames it, and breaks its lines
    assert (code, "expected quality, estimates, beside" in message) == (2, True)
