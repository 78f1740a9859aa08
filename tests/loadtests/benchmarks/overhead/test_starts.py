from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.overhead import starts
from benchmarks.overhead.starts import second_start, start_with_many
from benchmarks.progress import StepProgress
from loramux_loadtests.servers import ServerSetup, ServerSpec
from tests.helpers.fake_openai_process import fake_spec, small_base


class Fakes:
    """Replaces both servers, and records starts and registrations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.registered: list[int] = []
        monkeypatch.setattr(starts, "stock_spec", lambda setup: self._spec("stock"))
        monkeypatch.setattr(starts, "loramux_spec", lambda setup, data: self._spec(f"loramux {data.name}"))
        monkeypatch.setattr(starts, "register_adapters", self._register)

    def _spec(self, name: str) -> ServerSpec:
        self.started.append(name)
        return fake_spec(name=name)

    async def _register(self, url: str, adapters: Mapping[str, Path]) -> None:
        self.registered.append(len(adapters))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


@pytest.fixture
def setup(tmp_path: Path) -> ServerSetup:
    return ServerSetup(small_base(tmp_path), {"tone": Path("/tone")}, {}, {})


@pytest.mark.slow
async def test_second_starts_are_measured_in_turn_after_a_first_that_does_not_count(
    tmp_path: Path, fakes: Fakes, setup: ServerSetup
) -> None:
    with StepProgress() as progress:
        report = await second_start(setup, 2, tmp_path, progress)
    assert fakes.registered == [1]
    assert fakes.started == ["loramux data", "stock", "loramux data", "loramux data", "stock"]
    ratio = report.metrics[0]
    expected = sorted(row["loramux"] / row["stock"] for row in report.rounds)
    assert ratio.goal == "at most 1.2"
    assert list(ratio.spread[1:]) == pytest.approx(expected)


@pytest.mark.slow
async def test_a_start_with_many_adapters_is_compared_with_one_with_few(
    tmp_path: Path, fakes: Fakes, setup: ServerSetup
) -> None:
    with StepProgress() as progress:
        report = await start_with_many(setup, 5, 1, tmp_path, progress)
    assert fakes.registered == [3, 5]
    assert fakes.started[2:] == ["loramux with 3", "loramux with 5"]
    (row,) = report.rounds
    assert report.metrics[0].spread.median == pytest.approx(row["with 5"] - row["with 3"])
    assert report.metrics[0].goal == "at most 2"
