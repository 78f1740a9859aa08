import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.bursts import BurstFailedError
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, report_markdown
from benchmarks.robustness import robustness as module
from benchmarks.robustness.faults import RobustnessCase
from benchmarks.robustness.robustness import all_cases, measure_robustness
from loramux_loadtests.servers import ServerFailedError, ServerSetup
from tests.helpers.fake_openai_process import fake_spec, small_base


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces loramux by a server that rejects NaN, and stock vLLM by one that accepts everything."""
    started: list[str] = []

    def make(name: str, mode: str) -> None:
        def spec(*_: object) -> object:
            started.append(name)
            return fake_spec(mode, name)

        monkeypatch.setattr(module, f"{name}_spec", spec)

    make("loramux", "")
    make("stock", "trusting")
    return started


async def survey(
    tmp_path: Path, cases: Mapping[str, RobustnessCase], servers: Sequence[str] = ("loramux", "stock")
) -> BenchmarkReport:
    setup = ServerSetup(small_base(tmp_path), {}, {}, {})
    with StepProgress() as progress:
        return await measure_robustness(setup, tmp_path, progress, cases=cases, servers=servers)


@pytest.mark.slow
async def test_served_bad_adapters_and_affected_requests_are_counted(tmp_path: Path, started: list[str]) -> None:
    tried = {name: all_cases()[name] for name in ("NaN weights", "DoRA", "one NaN")}
    report = await survey(tmp_path, tried)
    found = {metric.name: (metric.spread.median, metric.goal) for metric in report.metrics}
    assert found == {
        "loramux: bad adapters served, of 3": (1.0, "at most 0"),  # the fake does not check for DoRA
        "loramux: other requests affected, of 18": (0.0, "at most 0"),
        "stock: bad adapters served, of 3": (3.0, ""),
        "stock: other requests affected, of 18": (12.0, ""),
    }
    assert [(row["server"], row["case"], row["affected"]) for row in report.rounds][2:4] == [
        ("loramux", "one NaN", 0),
        ("stock", "NaN weights", 6),
    ]


@pytest.mark.slow
async def test_a_server_with_affected_requests_is_restarted_before_the_next_case(
    tmp_path: Path, started: list[str]
) -> None:
    await survey(tmp_path, {name: all_cases()[name] for name in ("NaN weights", "DoRA", "one NaN")})
    assert started == ["loramux", "stock", "stock"]


@pytest.mark.slow
async def test_a_response_is_reported_without_paths_of_this_machine(tmp_path: Path, started: list[str]) -> None:
    report = await survey(tmp_path, {"NaN weights": all_cases()["NaN weights"]})
    line = next(line for line in report_markdown(report, {}).splitlines() if line.startswith("| NaN weights"))
    assert line == f"| NaN weights | no |  | {report.rounds[0]['response']} | **yes** | 6 | 8 x 200 |"
    assert "a value is NaN" in line
    assert str(tmp_path) not in line


async def test_one_server_can_be_tried_alone(tmp_path: Path, started: list[str]) -> None:
    report = await survey(tmp_path, {"NaN weights": all_cases()["NaN weights"]}, servers=["loramux"])
    assert started == ["loramux"]
    assert {metric.name.partition(":")[0] for metric in report.metrics} == {"loramux"}
    line = next(line for line in report_markdown(report, {}).splitlines() if line.startswith("| NaN weights"))
    assert line == f"| NaN weights | no |  | {report.rounds[0]['response']} |"


@pytest.mark.slow
async def test_a_server_without_a_sound_adapter_is_an_error(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "loramux_spec", lambda *_: fake_spec("wary", "loramux"))
    with pytest.raises(ServerFailedError, match="rejected the adapter good"):
        await survey(tmp_path, {"NaN weights": all_cases()["NaN weights"]})
    monkeypatch.setattr(module, "register_adapters", lambda *_: asyncio.sleep(0))
    with pytest.raises(BurstFailedError, match="loramux does not serve a sound adapter: not allowed"):
        await survey(tmp_path / "again", {"NaN weights": all_cases()["NaN weights"]})
