"""Every step of the engine reports the work of each run, on the fake and on vLLM."""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from loramux_server.base_model import ResolvedBase
from loramux_server.engine.step_observer import RunProgress, StepObserver
from loramux_server.metering.charging import ChargingMeter
from loramux_server.metering.cost_allocation import ActiveRun, CostShare, StepWork
from loramux_server.metering.pricing import FixedPrices, Prices
from tests.conftest import RealServer
from tests.helpers.tiny_server import small_engine

pytestmark = pytest.mark.asyncio(loop_scope="session")

PRICES = FixedPrices(Prices.model_validate({"gpu_hour": 3600}))
PLAIN, STREAM = RequestOutputKind.FINAL_ONLY, RequestOutputKind.DELTA


@dataclass
class RunWork:
    """The work of a run in all steps."""

    prefill: int = 0
    decode: int = 0


class CountingMeter(ChargingMeter):
    """A meter that keeps all runs and their work, and allocates nothing by itself."""

    def __init__(self) -> None:
        super().__init__(PRICES, [])
        self.runs: list[ActiveRun] = []
        self.works: dict[ActiveRun, RunWork] = {}
        self.ended: list[ActiveRun] = []

    def start_run(self, cost_share: CostShare) -> ActiveRun:
        """Keep the run."""
        run = super().start_run(cost_share)
        self.runs.append(run)
        self.works[run] = RunWork()
        return run

    def count_step(self, works: Iterable[StepWork], timestamp: float) -> None:
        """Add up the work of each run."""
        works = list(works)
        for run, prefill, decode in works:
            self.works[run].prefill += prefill
            self.works[run].decode += decode
        super().count_step(works, timestamp)

    @property
    def all_works(self) -> "list[RunWork]":
        """The work of all runs."""
        return [self.works[run] for run in self.runs]

    def end_run(self, run: ActiveRun) -> None:
        """Keep the order of ends."""
        self.ended.append(run)
        super().end_run(run)


@dataclass
class Bench:
    """An observed engine."""

    engine: Any
    meter: CountingMeter
    observer: StepObserver
    shares: list[CostShare] = field(default_factory=list)

    async def run(self, kind: RequestOutputKind, tokens: int = 6, **options: Any) -> RunProgress:
        """Ask for `tokens` after a new prompt of 8 tokens."""
        prompt = options.pop("prompt", None) or new_prompt(8)
        params = SamplingParams(**{"output_kind": kind, "max_tokens": tokens, "ignore_eos": True} | options)
        share, progress = CostShare(), RunProgress(params.n)
        self.shares.append(share)
        with self.observer.observing("same", share, progress) as name:
            async with aclosing(self.engine.generate({"prompt_token_ids": prompt}, params, name)) as outputs:
                async for _ in outputs:
                    pass
        return progress


def new_prompt(length: int) -> list[int]:
    return [random.randrange(10, 200) for _ in range(length)]  # noqa: S311 - new, so that nothing is cached


@pytest.fixture(params=["fake", pytest.param("vllm", marks=[pytest.mark.engine, pytest.mark.cuda_path])])
def bench(request: pytest.FixtureRequest, tiny_base: ResolvedBase) -> Iterator[Bench]:
    if request.param == "fake":
        engine: Any = small_engine(tiny_base)
        engine.seconds_per_token = 0.002
    else:
        real: RealServer = request.getfixturevalue("real")
        engine = real.engine
    meter = CountingMeter()
    observer = StepObserver(engine.output_processor, meter)
    yield Bench(engine, meter, observer)
    observer.close()


@pytest.mark.parametrize("kind", [PLAIN, STREAM])
async def test_a_run_has_the_work_of_its_prompt_and_of_each_token(bench: Bench, kind: RequestOutputKind) -> None:
    """T10: what a request costs does not depend on how it is answered."""
    progress = await bench.run(kind)
    assert bench.meter.all_works == [RunWork(8, 6)]
    assert (progress.output_tokens, progress.cached_tokens, progress.sequences) == (6, 0, 0)


@pytest.mark.parametrize("kind", [PLAIN, STREAM])
async def test_each_choice_of_a_request_has_its_work_and_its_prompt_is_computed_once(
    bench: Bench, kind: RequestOutputKind
) -> None:
    progress = await bench.run(kind, n=3, temperature=1.0)
    (run,) = bench.meter.all_works
    assert run.decode == progress.output_tokens == 18
    assert run.prefill in (8, 24)  # the fake and vLLM compute short prompts for each
    assert progress.cached_tokens == 0


@pytest.mark.parametrize("kind", [PLAIN, STREAM])
async def test_a_cancelled_run_keeps_its_work_until_then(bench: Bench, kind: RequestOutputKind) -> None:
    task = asyncio.create_task(bench.run(kind, tokens=100))
    while not (bench.meter.runs and bench.meter.all_works[0].decode >= 3):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (run,) = bench.meter.all_works
    assert run.prefill == 8
    assert 3 <= run.decode < 100
    assert bench.meter.ended == bench.meter.runs


async def test_runs_that_clients_gave_the_same_id_are_counted_apart(bench: Bench) -> None:
    await asyncio.gather(*(bench.run(PLAIN, tokens) for tokens in (4, 7, 10)))
    assert [run.decode for run in bench.meter.all_works] == [4, 7, 10]


async def test_a_run_ends_with_its_last_token_and_not_when_a_slow_client_has_read_it(bench: Bench) -> None:
    prompt, params = (
        {"prompt_token_ids": new_prompt(8)},
        SamplingParams(max_tokens=4, ignore_eos=True, output_kind=STREAM),
    )
    with bench.observer.observing("slow", CostShare(), RunProgress()) as name:
        async with aclosing(bench.engine.generate(prompt, params, name)) as outputs:
            async for output in outputs:
                if output.finished:
                    assert bench.meter.ended == bench.meter.runs
    assert bench.meter.all_works[0].decode == 4


async def test_an_error_while_counting_fails_no_request(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.meter.count_step = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    assert (await bench.run(PLAIN)).has_started
    assert "could not be counted" in caplog.text


@pytest.mark.engine
@pytest.mark.cuda_path
async def test_streamed_and_plain_runs_of_equal_work_have_equal_shares(real: RealServer) -> None:
    """T10: 4 streamed and 4 plain runs that are answered at once cost the same, within 5 %."""
    meter = CountingMeter()
    bench = Bench(real.engine, meter, StepObserver(real.engine.output_processor, meter))
    await real.engine.pause_generation(mode="keep", clear_cache=False)  # all wait, and are computed together
    runs = [asyncio.create_task(bench.run(kind, tokens=60)) for kind in [STREAM, PLAIN] * 4]
    while len(bench.meter.runs) < len(runs):  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)  # until the scheduler, in the engine's process, has them
    await real.engine.resume_generation()
    await asyncio.gather(*runs)
    bench.observer.close()
    meter.charge_ended()
    costs = [share.nanodollars for share in bench.shares]
    assert all(share.nanodollars > 0 and not share.unpriced for share in bench.shares)
    mean = sum(costs) / len(costs)
    print("shares relative to their mean:", [round(cost / mean, 4) for cost in costs])  # noqa: T201 - a measurement
    assert max(costs) < 1.05 * mean
    assert min(costs) > 0.95 * mean


@pytest.mark.engine
@pytest.mark.cuda_path
async def test_a_prompt_that_is_computed_in_chunks_has_the_work_of_each_when_it_is_done(real: RealServer) -> None:
    """T10: the time of a long prefill is its own, not that of the runs next to it."""
    config = real.engine.vllm_config
    length = config.model_config.max_model_len - 8
    count = config.scheduler_config.max_num_batched_tokens // length + 2  # more than fit into one step
    meter = CountingMeter()
    observer = StepObserver(real.engine.output_processor, meter)
    bench = Bench(real.engine, meter, observer)
    partial: set[int] = set()
    count_step = meter.count_step

    def note_step(works: Iterable[StepWork], timestamp: float) -> None:
        count_step(works, timestamp)
        partial.update(work.prefill for work in meter.all_works if not work.decode and 0 < work.prefill < length)

    meter.count_step = note_step  # type: ignore[method-assign]
    await asyncio.gather(*(bench.run(PLAIN, tokens=2, prompt=new_prompt(length)) for _ in range(count)))
    observer.close()
    assert partial
    assert [work.prefill for work in meter.all_works] == [length] * count


@pytest.mark.engine
@pytest.mark.parametrize("model", ["demo", "support-intent"])
async def test_a_beam_search_is_charged_for_its_usage(real: RealServer, model: str) -> None:
    """T11: 3 beams of 10 tokens, on the base and on an adapter: the prompt is charged once, not 31 times."""
    prompt = " ".join(str(number) for number in new_prompt(200))
    since = time.time()
    answer = await real.client.chat.completions.create(
        model=real.base.name if model == "demo" else model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=10,
        n=3,
        extra_body={"use_beam_search": True},
    )
    assert answer.usage is not None
    async with asyncio.timeout(20):
        while (total := (await real.http.get("/admin/usage", params={"since": since})).json()["total"]) is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.1)
    assert (total["tokens"]["input"], total["tokens"]["output"]) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    price = answer.usage.prompt_tokens * 1000 + answer.usage.completion_tokens * 2000
    assert total["cost"]["price_list"]["nanodollars"] == price
