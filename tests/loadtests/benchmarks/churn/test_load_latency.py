from pathlib import Path

import pytest

from benchmarks.bursts import BurstFailedError
from benchmarks.churn import load_latency as loads
from benchmarks.churn.load_latency import PLACES, cold, gaps
from benchmarks.progress import Steps
from loramux_loadtests.report import Report
from loramux_loadtests.servers import Setup
from tests.helpers.fake_openai_process import fake_spec, small_base


@pytest.fixture
def habit(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """How the servers that stand in for both behave."""
    monkeypatch.setattr(loads, "QUIET_SECONDS", 0)
    habit = {"loramux": "halts", "stock": "halts"}
    monkeypatch.setattr(loads, "loramux", lambda setup, data: fake_spec(habit["loramux"], "loramux"))
    monkeypatch.setattr(loads, "stock", lambda setup: fake_spec(habit["stock"], "stock"))
    return habit


def medians(report: Report) -> dict[str, float]:
    return {finding.what: finding.spread.median for finding in report.findings}


async def test_a_gap_is_longer_while_an_adapter_is_loaded_that_is_cold(tmp_path: Path, habit: dict[str, str]) -> None:
    with Steps() as steps:
        report = await gaps(Setup(small_base(tmp_path), {}, {}, {}), tmp_path, steps, loads=2)
    found = medians(report)
    for name in ("loramux", "stock"):
        assert found[f"{name}: longest gap / median gap, adapter cold"] > 10
        assert found[f"{name}: longest gap / median gap, adapter warm"] < 10
    assert len(report.rounds) == 2 * 2
    goals = [finding.what for finding in report.findings if finding.goal]
    assert goals == ["loramux: longest gap / median gap, adapter cold"]


async def test_a_load_that_misses_the_stream_is_no_measurement(tmp_path: Path, habit: dict[str, str]) -> None:
    habit["loramux"] = ""  # its streams are over in a moment
    with Steps() as steps, pytest.raises(BurstFailedError, match="did not fall into the stream"):
        await gaps(Setup(small_base(tmp_path), {}, {}, {}), tmp_path, steps, loads=1)


async def test_a_first_token_is_later_when_its_adapter_is_cold(tmp_path: Path, habit: dict[str, str]) -> None:
    with Steps() as steps:
        report = await cold(Setup(small_base(tmp_path), {}, {}, {}), tmp_path, steps, count=2)
    assert len(report.rounds) == 2 * 2 * (PLACES + 1)  # fewer adapters than places would never be cold
    first = [row for row in report.rounds if row["prompt"] == "short"]
    assert all(row["ratio"] > 5 for row in first)
    assert {finding.what for finding in report.findings if finding.goal} == {
        "loramux: first token cold / warm, short prompt",
        "loramux: first token cold / warm, long prompt",
    }
