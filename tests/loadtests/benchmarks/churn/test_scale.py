from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.churn import scale as module
from benchmarks.churn.scale import measure_scale
from benchmarks.progress import StepProgress
from loramux_loadtests.servers import ServerFailedError, ServerSetup, register_adapters
from tests.helpers.fake_openai_process import fake_spec, small_base


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[ServerSetup]:
    setups: list[ServerSetup] = []

    def loramux_spec(setup: ServerSetup, data: Path) -> object:
        setups.append(setup)
        return fake_spec(f"keeps {data}", "loramux")

    monkeypatch.setattr(module, "loramux_spec", loramux_spec)
    return setups


@pytest.mark.slow
async def test_a_start_with_many_adapters_is_compared_with_one_with_few(
    tmp_path: Path, fakes: list[ServerSetup]
) -> None:
    with StepProgress() as progress:
        report = await measure_scale(
            ServerSetup(small_base(tmp_path), {}, {}, {}), tmp_path, progress, count=20, rounds=2
        )
    found = {metric.name: metric for metric in report.metrics}
    assert found["memory: 20 adapters - 10 adapters"].spread.median == pytest.approx(10)  # 1 MB each
    assert {what: metric.goal for what, metric in found.items() if metric.goal} == {
        "start: 20 adapters - 10 adapters": "at most 5",
        "/v1/models with 20 adapters": "at most 1",
        "memory: 20 adapters - 10 adapters": "at most 200",
    }
    assert len(fakes) == 2 + 2 * 2
    assert all(setup.environment["LORAMUX_PROOF"] == "false" for setup in fakes)


@pytest.mark.slow
async def test_a_list_that_lacks_adapters_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def register_but_one(url: str, adapters: Mapping[str, Path], concurrency: int) -> None:
        await register_adapters(url, dict(list(adapters.items())[1:]), concurrency)

    monkeypatch.setattr(module, "register_adapters", register_but_one)
    with StepProgress() as progress, pytest.raises(ServerFailedError, match="does not list all of 12"):
        await measure_scale(ServerSetup(small_base(tmp_path), {}, {}, {}), tmp_path, progress, count=12, rounds=1)
