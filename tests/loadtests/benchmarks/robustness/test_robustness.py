import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.bursts import BurstFailedError
from benchmarks.progress import Steps
from benchmarks.robustness import robustness as harm
from benchmarks.robustness.faults import Case
from benchmarks.robustness.robustness import bad, cases
from loramux_loadtests.report import Report, markdown
from loramux_loadtests.servers import ServerFailedError, Setup
from tests.helpers.fake_openai_process import fake_spec, small_base


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for loramux by a server that refuses NaN, and for stock vLLM by one that takes everything."""
    started: list[str] = []

    def make(name: str, habit: str) -> None:
        def spec(*_: object) -> object:
            started.append(name)
            return fake_spec(habit, name)

        monkeypatch.setattr(harm, name, spec)

    make("loramux", "")
    make("stock", "trusting")
    return started


async def survey(tmp_path: Path, tried: Mapping[str, Case]) -> Report:
    with Steps() as steps:
        return await bad(Setup(small_base(tmp_path), {}, {}, {}), tmp_path, steps, tried=tried)


async def test_what_gets_in_and_whom_it_harms_is_counted(tmp_path: Path, started: list[str]) -> None:
    tried = {name: cases()[name] for name in ("NaN weights", "DoRA", "one NaN")}
    report = await survey(tmp_path, tried)
    found = {finding.what: (finding.spread.median, finding.goal) for finding in report.findings}
    assert found == {
        "loramux: cases that got in, of 3": (1.0, "at most 0"),  # the fake one knows no DoRA
        "loramux: requests of others harmed, of 18": (0.0, "at most 0"),
        "stock: cases that got in, of 3": (3.0, ""),
        "stock: requests of others harmed, of 18": (12.0, ""),
    }
    assert [(row["server"], row["case"], row["harmed"]) for row in report.rounds][2:4] == [
        ("loramux", "one NaN", 0),
        ("stock", "NaN weights", 6),
    ]


async def test_a_server_that_harmed_is_started_again_before_the_next_case(tmp_path: Path, started: list[str]) -> None:
    await survey(tmp_path, {name: cases()[name] for name in ("NaN weights", "DoRA", "one NaN")})
    assert started == ["loramux", "stock", "stock"]


async def test_a_refusal_is_told_without_where_this_machine_keeps_things(tmp_path: Path, started: list[str]) -> None:
    report = await survey(tmp_path, {"NaN weights": cases()["NaN weights"]})
    line = next(line for line in markdown(report, {}).splitlines() if line.startswith("| NaN weights"))
    assert line == f"| NaN weights | no |  | {report.rounds[0]['said']} | **yes** | 6 | 8 x 200 |"
    assert "a value is NaN" in line
    assert str(tmp_path) not in line


async def test_a_server_that_takes_not_even_a_sound_adapter_is_no_measurement(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harm, "loramux", lambda *_: fake_spec("wary", "loramux"))
    with pytest.raises(ServerFailedError, match="good was refused"):
        await survey(tmp_path, {"NaN weights": cases()["NaN weights"]})
    monkeypatch.setattr(harm, "register", lambda *_: asyncio.sleep(0))
    with pytest.raises(BurstFailedError, match="loramux does not serve a sound adapter: not allowed"):
        await survey(tmp_path / "again", {"NaN weights": cases()["NaN weights"]})
