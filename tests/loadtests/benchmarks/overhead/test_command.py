import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.overhead import command as overhead
from benchmarks.overhead.side_by_side import ComparisonPlan
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import Spread
from loramux_loadtests.loadtest.local_servers import ENGINE
from loramux_loadtests.servers import ServerFailedError, ServerSetup


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the comparison; set `ratio` or `error` to choose its result."""
    recorded: dict[str, Any] = {"ratio": 1.0}

    async def measure(setup: ServerSetup, plan: ComparisonPlan, *_: Any) -> BenchmarkReport:
        recorded.update(setup=setup, plan=plan)
        if error := recorded.get("error"):
            raise error
        ratio = recorded["ratio"]
        return BenchmarkReport("Overhead", "", [Metric("base", Spread(ratio, ratio, ratio), at_least=0.97)], {}, [])

    for name in ("loramux_against_stock", "stock_against_itself"):
        monkeypatch.setattr(overhead, name, measure)
    return recorded


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(overhead.main)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_goals_that_are_met_end_in_success_and_two_files(tmp_path: Path, recorded: dict[str, Any]) -> None:
    code, output = run("--base", "/b", "--adapter", "tone=/t", "--engine", "dtype=bfloat16", "--results", str(tmp_path))
    assert (code, sorted(path.name for path in tmp_path.iterdir())) == (0, ["overhead.json", "overhead.md"])
    assert "at least 0.97" in output
    assert recorded["setup"].adapters == {"tone": Path("/t")}
    assert recorded["setup"].engine == {**ENGINE, "dtype": "bfloat16"}


def test_a_missed_goal_ends_in_failure_after_the_files_are_written(tmp_path: Path, recorded: dict[str, Any]) -> None:
    recorded["ratio"] = 0.9
    code, _ = run("--base", "/b", "--adapter", "tone=/t", "--results", str(tmp_path))
    assert code == 1
    assert json.loads((tmp_path / "overhead.json").read_text())["findings"][0]["met"] is False


def test_noise_misses_no_goal(tmp_path: Path, recorded: dict[str, Any]) -> None:
    recorded["ratio"] = 0.9
    assert run("--base", "/b", "--noise", "--quick", "--results", str(tmp_path))[0] == 0
    assert (tmp_path / "overhead-noise.json").exists()
    assert recorded["plan"] == overhead.QUICK


def test_a_failed_server_is_an_error_with_its_message(tmp_path: Path, recorded: dict[str, Any]) -> None:
    recorded["error"] = ServerFailedError("stock ended with 1:\n[no] engine")
    code, output = run("--base", "/b", "--results", str(tmp_path))
    assert code == 2
    assert "[no] engine" in output
    assert not list(tmp_path.iterdir())
