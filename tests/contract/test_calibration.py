"""The weights are measured on vLLM."""

import time

import pytest

from loramux_server.engine.calibration import MAX_SECONDS, EngineCalibration
from tests.conftest import RealServer

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


async def test_a_calibration_takes_a_few_seconds_and_is_in_no_ledger(real: RealServer) -> None:
    before, started = (await real.http.get("/admin/usage")).json()["total"], time.monotonic()
    found = await EngineCalibration(real.engine)()
    seconds = time.monotonic() - started
    print("calibration:", found, f"{seconds:.2f} s")  # noqa: T201 - a measurement
    assert found is not None
    assert 0 < found.lowest <= found.decode_weight <= found.highest
    assert seconds < 4 * MAX_SECONDS
    assert not real.engine.output_processor.get_num_unfinished_requests()
    assert (await real.http.get("/admin/usage")).json()["total"] == before
