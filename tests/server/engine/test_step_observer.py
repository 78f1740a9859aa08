"""Shares of the engine's cost follow the work of requests, on a simulated engine with a manual clock."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_server.engine.step_observer import RunProgress, StepObserver
from loramux_server.engine.work_reports import WORK_REPORT
from loramux_server.metering.charging import ChargingMeter
from loramux_server.metering.cost_allocation import CostShare, EngineTime
from loramux_server.metering.pricing import FixedPrices, Prices
from loramux_server.metering.usage_record import Charge, UsageRecord

DECODE_WEIGHT = 5
PRICES = FixedPrices(Prices.model_validate({"gpu_hour": 36_000, "decode_weight": DECODE_WEIGHT}))
NANOSECONDS_PER_WORK = 100_000
NANODOLLARS_PER_NANOSECOND = 10
CHARGE_NANOSECONDS = 100_000_000
TOKENS_PER_STEP = 64
"""Tokens that a step of the simulated engine computes at most, so that long prompts take several."""


@dataclass
class SimulatedRequest:
    """A request, and what the engine has done for it."""

    name: str
    start_step: int
    prompt: int
    cached: int
    output: int
    sequences: int
    is_streamed: bool
    drafts: int
    """Drafts per step and sequence, of which the engine accepts every second one."""
    cancel_step: int | None
    share: CostShare = field(default_factory=CostShare)
    work: int = 0
    due: float = 0.0
    """Nano-dollars: the time of each step, split by the work in it."""
    progress: RunProgress = field(default_factory=RunProgress)
    observing: Any = None


@dataclass
class Sequence:
    """A sequence in the engine."""

    request: SimulatedRequest
    id: str
    computed: int
    generated: int = 0


class SimulatedEngine:
    """Runs steps whose time is proportional to their work: chunks of prompts, drafts and decoding steps."""

    def __init__(self) -> None:
        self.request_states: dict[str, SimpleNamespace] = {}
        self.sequences: list[Sequence] = []

    def process_outputs(self, outputs: list[Any], _timestamp: float) -> None:
        """Do what vLLM's output processor does with states; it ignores reports."""
        for output in outputs:
            if output.request_id in self.request_states:
                self.request_states[output.request_id].is_prefilling = False
                if output.finished:
                    del self.request_states[output.request_id]

    def add(self, request: SimulatedRequest, name: str) -> None:
        """Add the sequences of a request."""
        for number in range(request.sequences):
            each = f"{number}_{name}-0a1b2c3d"
            self.request_states[each] = SimpleNamespace(
                external_req_id=name, prompt_len=request.prompt, is_prefilling=True
            )
            self.sequences.append(Sequence(request, each, computed=request.cached))

    def abort(self, request: SimulatedRequest) -> None:
        """Drop a request before the next step."""
        for sequence in self.sequences:
            if sequence.request is request:
                self.request_states.pop(sequence.id, None)
        self.sequences = [sequence for sequence in self.sequences if sequence.request is not request]

    def step(self) -> tuple[list[Any], int]:
        """Compute a step; returns its outputs and its work."""
        outputs, budget, total = [], TOKENS_PER_STEP, 0
        for sequence in self.sequences:
            request, missing = sequence.request, sequence.request.prompt - sequence.computed
            chunk = min(missing, budget)
            if not budget or (missing and not chunk):
                continue
            budget -= max(1, chunk)
            sequence.computed += chunk
            work = chunk
            if chunk < missing:
                outputs.append(_output(WORK_REPORT + sequence.id, [chunk]))
            else:
                drafts = 0 if missing else request.drafts
                if drafts:
                    outputs.append(_output(WORK_REPORT + sequence.id, [drafts]))
                new = min(1 + drafts // 2, request.output - sequence.generated)
                sequence.generated += new
                work += DECODE_WEIGHT + drafts
                is_last = sequence.generated == request.output
                outputs.append(_output(sequence.id, [7] * new, request.cached, finished=is_last))
            request.work += work
            total += work
        self.sequences = [each for each in self.sequences if each.generated < each.request.output]
        return outputs, total


def _output(name: str, tokens: list[int], cached: int = 0, *, finished: bool = False) -> SimpleNamespace:
    stats = SimpleNamespace(num_cached_tokens=cached)
    return SimpleNamespace(request_id=name, new_token_ids=tokens, finished=finished, prefill_stats=stats)


class TimeSink:
    """A ChargeSink that adds up engine time."""

    def __init__(self) -> None:
        self.time = EngineTime()

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Do nothing."""

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Add it up."""
        self.time += engine_time


def simulate(requests: list[SimulatedRequest], read_delay: int, overhead: int = 0) -> tuple[TimeSink, int]:
    """Run all requests to their end; streams are read `read_delay` steps late. Returns the sink, and the time.

    Each step takes `overhead` nanoseconds, and more in proportion to its work. It is reported in two parts.
    """
    now, sink, engine = [0], TimeSink(), SimulatedEngine()
    meter = ChargingMeter(PRICES, [sink], lambda: now[0])
    observer = StepObserver(engine, meter)
    active: dict[str, SimulatedRequest] = {}
    unread: dict[str, int] = {}
    """The step at which the response of an answered request is read to its end."""
    charged_at, step = 0, 0

    def close(request: SimulatedRequest) -> None:
        request.observing.__exit__(None, None, None)
        active.pop(request.name)
        unread.pop(request.name, None)

    while active or step <= max(request.start_step for request in requests):
        for request in requests:
            if request.start_step == step:
                request.progress.sequences = request.sequences
                request.observing = observer.observing("same id", request.share, request.progress)
                engine.add(request, request.observing.__enter__())
                active[request.name] = request
            elif request.cancel_step == step and request.name in active:
                engine.abort(request)
                close(request)
        before = {request.name: request.work for request in requests}
        outputs, work = engine.step()
        nanoseconds = work * NANOSECONDS_PER_WORK + overhead if work else 1_000_000  # idle
        now[0] += nanoseconds
        for request in requests:
            request.due += (
                (request.work - before[request.name]) / (work or 1) * nanoseconds * NANODOLLARS_PER_NANOSECOND
            )
        outputs.sort(key=lambda output: not output.request_id.startswith(WORK_REPORT))  # reports come first
        for some in (outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]):
            engine.process_outputs(some, now[0] / 1e9)
        computed = {sequence.request.name for sequence in engine.sequences}
        for request in list(active.values()):
            if request.name not in computed:
                unread.setdefault(request.name, step + (read_delay if request.is_streamed else 0))
            if unread.get(request.name, step + 1) <= step:
                close(request)
        if now[0] - charged_at >= CHARGE_NANOSECONDS:
            meter.charge_ended()
            charged_at = now[0]
        step += 1
    meter.charge_ended()
    return sink, now[0]


@st.composite
def mixes(draw: st.DrawFn) -> list[SimulatedRequest]:
    """Draw concurrent requests: streamed or plain, of several choices, cancelled, cached, speculative."""
    requests = []
    for number in range(draw(st.integers(1, 8))):
        prompt, start = draw(st.integers(1, 300)), draw(st.integers(0, 40))
        requests.append(
            SimulatedRequest(
                name=f"request {number}",
                start_step=start,
                prompt=prompt,
                cached=draw(st.integers(0, prompt - 1)),
                output=draw(st.integers(1, 60)),
                sequences=draw(st.integers(1, 3)),
                is_streamed=draw(st.booleans()),
                drafts=draw(st.sampled_from([0, 0, 4])),
                cancel_step=draw(st.none() | st.integers(start + 1, start + 40)),
            )
        )
    return requests


@settings(max_examples=60, deadline=None)
@given(mixes(), st.sampled_from([0, 50]), st.sampled_from([0, 1_000_000, 50_000_000]))
def test_shares_follow_the_work_of_streamed_plain_cancelled_and_speculative_requests_of_any_n(
    requests: list[SimulatedRequest], read_delay: int, overhead: int
) -> None:
    """T10: each request has its part of each step by its work, within 5 %, and no nano-dollar is lost.

    Without `overhead`, the time of a step is proportional to its work, and so are the shares.
    """
    sink, nanoseconds = simulate(requests, read_delay, overhead)
    for request in requests:
        assert abs(request.share.nanodollars - request.due) <= max(0.05 * request.due, 100)
        if not overhead:
            assert abs(request.due - request.work * NANOSECONDS_PER_WORK * NANODOLLARS_PER_NANOSECOND) < 100
    shares = sum(request.share.nanodollars for request in requests)
    assert shares == sink.time.requests_nanodollars
    assert 0 <= nanoseconds * 10 - (shares + sink.time.idle_nanodollars) <= 1  # 36,000 dollars an hour


def test_equal_requests_have_equal_shares_however_they_are_read() -> None:
    """T10: streamed and plain requests of equal work, one after the other and at once; streams are read slowly."""
    requests = [
        SimulatedRequest(f"{number}", start, 200, 0, 40, 1, is_streamed=bool(number % 2), drafts=0, cancel_step=None)
        for number, start in enumerate([0, 0, 0, 0, 100, 300, 500])
    ]
    simulate(requests, read_delay=90)
    costs = [request.share.nanodollars for request in requests]
    assert max(costs) - min(costs) <= 1
