from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.churn import scale as module
from benchmarks.churn.scale import many
from benchmarks.progress import Steps
from loramux_loadtests.servers import ServerFailedError, Setup, register
from tests.helpers.fake_openai_process import fake_spec, small_base


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[Setup]:
    setups: list[Setup] = []

    def loramux(setup: Setup, data: Path) -> object:
        setups.append(setup)
        return fake_spec(f"keeps {data}", "loramux")

    monkeypatch.setattr(module, "loramux", loramux)
    return setups


async def test_a_start_with_many_adapters_is_held_against_one_with_few(tmp_path: Path, fakes: list[Setup]) -> None:
    with Steps() as steps:
        report = await many(Setup(small_base(tmp_path), {}, {}, {}), tmp_path, steps, count=20, rounds=2)
    found = {finding.what: finding for finding in report.findings}
    assert found["memory: 20 adapters - 10 adapters"].spread.median == pytest.approx(10)  # 1 MB each
    assert {what: finding.goal for what, finding in found.items() if finding.goal} == {
        "start: 20 adapters - 10 adapters": "at most 5",
        "/v1/models with 20 adapters": "at most 1",
        "memory: 20 adapters - 10 adapters": "at most 200",
    }
    assert len(fakes) == 2 + 2 * 2
    assert all(setup.environment["LORAMUX_PROOF"] == "false" for setup in fakes)


async def test_a_list_that_lacks_adapters_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def register_but_one(url: str, adapters: Mapping[str, Path], at_once: int) -> None:
        await register(url, dict(list(adapters.items())[1:]), at_once)

    monkeypatch.setattr(module, "register", register_but_one)
    with Steps() as steps, pytest.raises(ServerFailedError, match="does not list all of 12"):
        await many(Setup(small_base(tmp_path), {}, {}, {}), tmp_path, steps, count=12, rounds=1)
