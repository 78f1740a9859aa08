import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import benchmark_parts as parts
from benchmarks.benchmark_parts import BenchmarkPart
from benchmarks.bursts import BurstFailedError
from benchmarks.churn import command as bench_churn
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import Spread
from loramux_loadtests.servers import ServerFailedError, ServerSetup

RATIOS = {"good": 1.0, "missed": 0.5}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[ServerSetup]:
    """The setups that the fake parts received; each part does what its name says."""
    given: list[ServerSetup] = []

    async def part(name: str, setup: ServerSetup, progress: StepProgress) -> BenchmarkReport:
        given.append(setup)
        if name == "broken":
            raise BurstFailedError("the [server] said no")
        return BenchmarkReport(name, "", [Metric(name, Spread(*[RATIOS[name]] * 3), at_least=0.8)], {}, [])

    def bind(name: str) -> BenchmarkPart:
        return lambda setup, scratch, progress: part(name, setup, progress)

    def parts(rounds: int, *, quick: bool, stock: bool) -> dict[str, BenchmarkPart]:
        return {name: bind(name) for name in ("good", "broken", "missed")}

    monkeypatch.setattr(bench_churn, "parts", parts)
    return given


def run(results: Path, *arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(bench_churn.main)
    result = CliRunner().invoke(app, ["--base", "/b", "--results", str(results), *arguments])
    return result.exit_code, result.output


def files(results: Path) -> list[str]:
    return sorted(path.name for path in results.iterdir())


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, given: list[ServerSetup]) -> None:
    code, output = run(tmp_path)
    assert code == 2
    assert "broken: the [server] said no" in output
    assert files(tmp_path) == ["churn-good.json", "churn-good.md", "churn-missed.json", "churn-missed.md"]


@pytest.mark.parametrize(("part", "code"), [("good", 0), ("missed", 1), ("broken", 2)])
def test_the_exit_code_tells_whether_the_goals_were_met(
    tmp_path: Path, given: list[ServerSetup], part: str, code: int
) -> None:
    assert run(tmp_path, "--only", part)[0] == code
    assert len(given) == 1


def test_an_unknown_part_is_refused_before_anything_is_measured(tmp_path: Path, given: list[ServerSetup]) -> None:
    code, output = run(tmp_path, "--only", "everything")
    assert code == 2
    assert "unknown part everything; expected good, broken, missed" in " ".join(re.sub("[│╭╮╰╯─]", " ", output).split())
    assert not given


def test_arguments_of_vllm_are_passed_on_over_the_choice_for_this_cpu(tmp_path: Path, given: list[ServerSetup]) -> None:
    run(tmp_path, "--only", "good")
    run(tmp_path, "--only", "good", "--engine", "dtype=half", "--engine", "max_num_seqs=4")
    assert given[0].engine["dtype"] in ("float32", "bfloat16")
    assert (given[1].engine["dtype"], given[1].engine["max_num_seqs"]) == ("half", 4)


def test_a_base_that_can_not_be_created_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise ServerFailedError("no engine today")

    monkeypatch.setattr(parts, "prepared_base", fail)
    app = typer.Typer()
    app.command()(bench_churn.main)
    result = CliRunner().invoke(app, ["--results", str(tmp_path)])
    assert result.exit_code == 2
    assert "no engine today" in result.output


def test_the_parts_are_those_of_the_table_and_a_trial_is_a_small_part_of_each() -> None:
    whole, trial = bench_churn.parts(3, quick=False), bench_churn.parts(3, quick=True)
    assert list(whole) == list(trial) == ["throughput", "gaps", "cold", "bad", "many", "configured"]
