"""The weights are measured once, in idle time, and never next to a request."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_server.base_model import ResolvedBase
from loramux_server.engine.calibration import STREAMS, EngineCalibration
from loramux_server.metering.idle_calibration import MAX_FAILURES, IdleCalibration
from loramux_server.metering.ledger.calibrations import Calibration, Calibrations
from loramux_server.metering.ledger.price_history import PriceHistory
from loramux_server.metering.price_versions import CurrentPrices
from loramux_server.metering.pricing import Prices
from tests.helpers.tiny_server import small_engine, tiny_server
from tests.helpers.usage_records import database

MEASURED = Calibration(5.0, prefill_seconds=0.001, decode_seconds=0.009, lowest=8.0, highest=10.0)


@dataclass
class Bench:
    """A calibration on a manual clock, whose measurement takes until `result` is set."""

    prices: CurrentPrices
    now: float = 0.0
    busy: bool = False
    started: int = 0
    idle_seconds: float | None = 60.0
    result: "asyncio.Future[Calibration | None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def __post_init__(self) -> None:
        self.calibration = IdleCalibration(
            self.measure, self.prices, lambda: self.busy, self.idle_seconds, lambda: self.now
        )

    async def measure(self) -> Calibration | None:
        self.started += 1
        return await asyncio.shield(self.result)

    async def check_at(self, now: float) -> None:
        self.now = now
        await self.calibration.check()


@pytest.fixture
def kept(tmp_path: Path) -> sa.Engine:
    return database(tmp_path)


@pytest.fixture
def bench(kept: sa.Engine) -> Callable[..., Bench]:
    def make(prices: Prices | None = None, **options: float | None) -> Bench:
        current = CurrentPrices(PriceHistory(kept), Calibrations(kept, "base", "cpu"), prices or Prices())
        current.start()
        return Bench(current, **options)  # type: ignore[arg-type]

    return make


async def test_the_weights_are_measured_once_after_a_minute_without_requests(bench: Callable[..., Bench]) -> None:
    idle = bench()
    idle.result.set_result(MEASURED)
    await idle.check_at(59.9)
    assert idle.started == 0
    await idle.check_at(60.0)
    assert idle.prices.calibration == MEASURED
    assert idle.prices.weights.decode == 9000
    await idle.check_at(1000.0)
    assert idle.started == 1
    restarted = bench()
    await restarted.check_at(1000.0)
    assert (restarted.started, restarted.prices.weights.decode) == (0, 9000)


async def test_each_request_and_other_work_in_the_engine_start_the_wait_again(bench: Callable[..., Bench]) -> None:
    idle = bench()
    idle.result.set_result(MEASURED)
    idle.now = 50.0
    idle.calibration.request_started()
    await idle.check_at(100.0)
    idle.busy = True
    await idle.check_at(115.0)
    idle.busy = False
    await idle.check_at(174.9)
    assert idle.started == 0
    await idle.check_at(175.0)
    assert idle.started == 1


async def test_a_request_aborts_the_measurement_and_the_next_idle_time_repeats_it(
    bench: Callable[..., Bench],
) -> None:
    idle = bench()
    idle.now = 60.0
    checking = asyncio.create_task(idle.calibration.check())
    while not idle.started:  # noqa: ASYNC110 - a task starts in the next iteration of the loop
        await asyncio.sleep(0)
    idle.calibration.request_started()
    await checking
    assert idle.prices.calibration is None
    idle.result.set_result(MEASURED)
    await idle.check_at(119.0)
    assert idle.started == 1
    await idle.check_at(120.0)
    assert idle.prices.calibration == MEASURED


@pytest.mark.parametrize(
    ("prices", "idle_seconds"), [(Prices.model_validate({"decode_weight": 4}), 60.0), (Prices(), None)]
)
async def test_nothing_is_measured_if_the_price_list_sets_the_weights_or_the_setting_says_never(
    bench: Callable[..., Bench], prices: Prices, idle_seconds: float | None
) -> None:
    idle = bench(prices, idle_seconds=idle_seconds)
    await idle.check_at(1e6)
    assert idle.started == 0


@pytest.mark.parametrize("failure", [None, RuntimeError("It died.")])
async def test_a_measurement_that_fails_is_tried_again_a_few_times(
    bench: Callable[..., Bench], failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    idle = bench()
    if failure:
        idle.result.set_exception(failure)
    else:
        idle.result.set_result(None)
    for number in range(1, 10):
        await idle.check_at(number * 60.0)
    assert idle.started == MAX_FAILURES
    assert idle.prices.calibration is None
    assert caplog.text.count("could not be measured") == (MAX_FAILURES if failure else 0)


async def test_the_end_of_the_server_aborts_the_measurement(bench: Callable[..., Bench]) -> None:
    idle = bench()
    idle.now = 60.0
    checking = asyncio.create_task(idle.calibration.check())
    while not idle.started:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert idle.calibration._measuring is None


async def test_the_measurement_leaves_nothing_in_the_engine_when_it_is_aborted(tiny_base: ResolvedBase) -> None:
    engine = small_engine(tiny_base)
    engine.seconds_per_token = 0.05
    measuring = asyncio.create_task(EngineCalibration(engine)())
    while engine.running < STREAMS:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    measuring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await measuring
    assert not engine.running
    assert not engine.request_states


async def test_the_measurement_compares_long_prompts_with_long_answers(tiny_base: ResolvedBase) -> None:
    """On a simulated engine: a step takes 1 ms, and 0.1 ms per token of a prompt."""
    now = [0.0]

    class SimulatedCalibration(EngineCalibration):
        async def _seconds(self, prompt: int, output: int) -> float:
            seconds = STREAMS * 0.0001 * prompt + 0.001 * output
            now[0] += seconds
            return seconds

    found = await SimulatedCalibration(small_engine(tiny_base), lambda: now[0], lambda: 5.0)()
    assert found is not None
    assert found.prefill_seconds == pytest.approx(0.0001)
    assert found.decode_seconds == pytest.approx(0.001 / STREAMS)
    assert found.decode_weight == pytest.approx(2.5)
    assert found.at == 5.0
    assert (found.lowest, found.highest) == pytest.approx((2.5, 2.5))


async def test_a_request_to_a_server_aborts_the_measurement_which_is_in_no_usage(
    tiny_base: ResolvedBase, tmp_path: Path
) -> None:
    async with tiny_server(tmp_path, tiny_base, calibration_idle_seconds=0.001) as tiny:
        tiny.engine.seconds_per_token = 0.01
        await asyncio.sleep(0.002)
        checking = asyncio.create_task(tiny.server.idle_calibration.check())
        while tiny.engine.running < STREAMS:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)
        answer = await tiny.chat("tiny", max_tokens=2)
        await checking
        assert answer.usage.completion_tokens == 2
        assert tiny.server.usage_recorder.prices.calibration is None
        assert not tiny.engine.running
        async with asyncio.timeout(10):
            while (total := (await tiny.http.get("/admin/usage")).json()["total"]) is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert (total["requests"], total["tokens"]["output"]) == (1, 2)
