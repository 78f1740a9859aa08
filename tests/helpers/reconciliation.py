"""Simulated requests through metering into a ledger, and a second account of what they cost, by other formulas."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import sqlalchemy as sa
from numpy.random import Generator, default_rng

from loramux_server.metering.charging import ChargingMeter
from loramux_server.metering.cost_allocation import ActiveRun, CostShare, EngineTime, StepWork
from loramux_server.metering.ledger.calibrations import Calibrations
from loramux_server.metering.ledger.price_history import PriceHistory
from loramux_server.metering.ledger.repository import LedgerRepository
from loramux_server.metering.ledger.writer import LedgerLimits, LedgerWriter
from loramux_server.metering.price_versions import CurrentPrices
from loramux_server.metering.pricing import Prices
from loramux_server.metering.usage_record import Charge, Operation, Outcome, Route, RunStats, UsageRecord
from tests.helpers.usage_records import NOON, RecordingLedgerObserver

ROUTES = (
    Route(),
    *(Route(f"adapter-{number}", f"{version:012x}") for number in range(4) for version in range(2)),
)
KEYS = 3
CONCURRENCY = 8
PER_LIFE, PER_PRICES = 0.11, 0.037
"""Parts of all requests after which the server restarts, and after which the prices change."""
NANOSECONDS_PER_HOUR = 3600 * 10**9
PRICE_LISTS: tuple[dict[str, Any], ...] = (
    {},
    {"gpu_hour": "2.49"},
    {"base": {"input": "0.15", "output": "0.6"}},
    {
        "base": {"input": "0.07", "cached": "0.0133", "output": "0.29"},
        "adapter": {"multiplier": "1.7"},
        "gpu_hour": "3.1",
    },
    {"adapters": {"adapter-1": {"tokens": {"input": "1.3", "output": "4.1"}}}, "gpu_hour": "0"},
    {"base": {"input": "0", "output": "0"}, "gpu_hour": "98.77", "gpus": 8, "decode_weight": "11.5"},
)


@dataclass
class SecondAccount:
    """What the requests of each label cost, by formulas of its own; costs in nano-dollars."""

    requests: Counter[tuple[str, ...]] = field(default_factory=Counter)
    price_list: Counter[tuple[str, ...]] = field(default_factory=Counter)
    price_list_unpriced: Counter[tuple[str, ...]] = field(default_factory=Counter)
    gpu_hour: Counter[tuple[str, ...]] = field(default_factory=Counter)
    gpu_hour_unpriced: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add(self, label: tuple[str, ...], values: dict[str, int | None], share: int | None) -> None:
        """Add a request."""
        self.requests[label] += 1
        for mode, cost in (values | {"gpu_hour": share}).items():
            getattr(self, mode)[label] += cost or 0
            getattr(self, f"{mode}_unpriced")[label] += cost is None


class _Sink:
    """Keeps the charges of ended requests and the engine time."""

    def __init__(self) -> None:
        self.charges: list[tuple[UsageRecord, Charge]] = []
        self.time = EngineTime()

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Keep it."""
        self.charges.append((record, charge))

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Add it up."""
        self.time += engine_time


@dataclass
class Simulation:
    """Runs requests with a manual clock; `account` has the labels (route, adapter, version, key, day, hour)."""

    database: sa.Engine
    count: int
    seed: int = 0
    account: SecondAccount = field(default_factory=SecondAccount)
    nanoseconds: Counter[Decimal] = field(default_factory=Counter)
    """All time, by the dollars that an hour of it costs."""
    shares: int = 0
    """Shares of all requests, also of those whose cost is unknown because they used unpriced time too."""
    idle: int = 0
    unallocated: int = 0
    lives: int = 0
    now: int = 0
    """Nanoseconds since the start of the simulation."""

    @property
    def machine_cost(self) -> Fraction:
        """Exact cost of all time, in nano-dollars."""
        hours = (
            (Fraction(dollars), Fraction(time, NANOSECONDS_PER_HOUR)) for dollars, time in self.nanoseconds.items()
        )
        return sum((dollars * time * 10**9 for dollars, time in hours), Fraction(0))

    def run(self) -> None:
        """Simulate all requests: lives of the server one after the other, each with its own meter and writer."""
        rng, done = default_rng(self.seed), 0
        while done < self.count:
            todo = min(max(1, round(self.count * PER_LIFE)), self.count - done)
            self._live(rng, todo)
            done += todo

    def _live(self, rng: Generator, count: int) -> None:
        self.lives += 1
        settings = Prices.model_validate(PRICE_LISTS[self.lives % len(PRICE_LISTS)])
        history, calibrations = PriceHistory(self.database), Calibrations(self.database, "base", "cpu")
        prices = CurrentPrices(history, calibrations, settings, self._unix)
        prices.start()
        sink, limits = _Sink(), LedgerLimits(max_waiting=10**7)
        writer = LedgerWriter(LedgerRepository(self.database), limits, RecordingLedgerObserver(), self._unix)
        meter = ChargingMeter(prices, [sink, writer], lambda: self.now)
        server = _Life(self, rng, prices, meter, sink)
        for number in range(0, count, CONCURRENCY):
            if rng.random() < CONCURRENCY / (self.count * PER_PRICES):
                server.change_prices()
            server.serve(min(CONCURRENCY, count - number))
            if number % 4096 == 0:
                while writer.flush():
                    pass
        server.settle()
        while writer.flush():
            pass
        self.unallocated += meter._allocator.unallocated

    def _unix(self) -> float:
        return NOON + self.now / 1e9


@dataclass
class _Life:
    """One life of the server."""

    simulation: Simulation
    rng: Generator
    prices: CurrentPrices
    meter: ChargingMeter
    sink: _Sink
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    rates: dict[str, "dict[str | None, Rates | None]"] = field(default_factory=dict)

    def change_prices(self) -> None:
        """Set or reset the prices, with requests in flight or idle time at the old ones before."""
        self.meter.charge_ended()
        self._pass(int(self.rng.integers(0, 10**10)))
        self.settle()
        number = int(self.rng.integers(0, len(PRICE_LISTS) + 1))
        if number < len(PRICE_LISTS):
            self.prices.set(Prices.model_validate(PRICE_LISTS[number]), "key_0")
        else:
            self.prices.reset(None)
        self.meter.charge_ended()

    def serve(self, count: int) -> None:
        """Serve concurrent requests, some of them across a change of prices, which the next requests see."""
        runs = [self._start() for _ in range(count)]
        works = self.rng.integers(1, 300, (2, count))
        self._step([(run, prefill, 0) for (run, _), prefill in zip(runs, works[0].tolist(), strict=True)])
        if self.rng.random() < 0.001:
            self._change_under_way()
        self._step([(run, 0, decode) for (run, _), decode in zip(runs, works[1].tolist(), strict=True)])
        for (run, share), prefill, decode in zip(runs, *works.tolist(), strict=True):
            self._pass(int(self.rng.integers(0, 10**5)))
            self.meter.end_run(run)
            self.meter.record(self._record(share, prefill, decode))
        self._pass(int(self.rng.integers(0, 10**6)))
        self.settle()

    def settle(self) -> None:
        """Charge the ended requests, and enter them into the second account."""
        self.meter.charge_ended()
        for record, charge in self.sink.charges:
            self._enter(record, charge)
        self.sink.charges.clear()
        self.simulation.idle += self.sink.time.idle_nanodollars
        self.sink.time = EngineTime()

    def _start(self) -> tuple[ActiveRun, CostShare]:
        share = CostShare()
        return self.meter.start_run(share), share

    def _step(self, works: list[StepWork]) -> None:
        self._pass(int(self.rng.integers(10**6, 10**9)))
        self.meter.count_step(works, self.simulation._unix())
        if self.rng.random() < 0.3:
            self.meter.charge_ended()

    def _change_under_way(self) -> None:
        self.meter.charge_ended()
        self.prices.set(Prices.model_validate(PRICE_LISTS[int(self.rng.integers(0, len(PRICE_LISTS)))]), None)
        self.meter.charge_ended()

    def _pass(self, nanoseconds: int) -> None:
        """Let time pass at the price in force."""
        prices = self.prices.current
        self.simulation.nanoseconds[prices.gpu_hour * prices.gpus] += nanoseconds
        self.simulation.now += nanoseconds

    def _record(self, share: CostShare, prefill: int, decode: int) -> UsageRecord:
        route = ROUTES[int(self.rng.integers(0, len(ROUTES)))]
        cached = int(self.rng.integers(0, 50))
        stats = RunStats(
            input_tokens=prefill + cached, cached_tokens=cached, output_tokens=decode, first_token=0.1, last_token=0.5
        )
        return UsageRecord(
            request_id="req", operation=Operation.CHAT, status=200, error=None,
            outcome=Outcome.OK if decode % 20 else Outcome.CANCELLED, key_id=f"key_{decode % KEYS}", route=route,
            started_at=self.simulation._unix() - 1.0, duration=1.0, stats=stats, cost_share=share,
        )  # fmt: skip

    def _enter(self, record: UsageRecord, charge: Charge) -> None:
        """Enter a request with the cost of its tokens by PRICE_LISTS, and its share."""
        route, ended = record.route or Route(), int(record.ended_at)
        label = (
            route.kind, route.adapter or "", route.version or "", record.key_id or "", str(ended // 86400),
            str(ended // 3600),
        )  # fmt: skip
        if charge.price_version not in self.values:
            self.values[charge.price_version] = self.prices.current.model_dump(mode="json", exclude_unset=True)
            self.rates[charge.price_version] = {}
        values, rates, stats = self.values[charge.price_version], self.rates[charge.price_version], record.stats
        if route.adapter not in rates:
            rates[route.adapter] = token_rates(values, route.adapter)
        cost = rounded_cost(rates[route.adapter], stats.input_tokens, stats.cached_tokens, stats.output_tokens)
        is_unknown = record.cost_share.unpriced or "gpu_hour" not in values
        share = record.cost_share.nanodollars
        assert charge.gpu_hour == (None if is_unknown else share)
        self.simulation.shares += share
        self.simulation.account.add(label, {"price_list": cost}, None if is_unknown else share)


Rates = tuple[int, int, int, int]
"""Nano-dollars per input, cached and output token, each in units of one divided by the last value."""


def token_rates(values: dict[str, Any], adapter: str | None) -> Rates | None:
    """Return the exact rates of a raw price list, None if these tokens have no price."""
    own = values.get("adapters", {}).get(adapter, values.get("adapter", {})) if adapter else {}
    tokens = own.get("tokens") or values.get("base")
    if not tokens:
        return None
    factor = 1000 * (1 if own.get("tokens") else Fraction(str(own.get("multiplier", 1))))
    input_, output = (Fraction(str(tokens.get(name) or 0)) * factor for name in ("input", "output"))
    cached = Fraction(str(tokens["cached"])) * factor if tokens.get("cached") is not None else input_
    unit = input_.denominator * cached.denominator * output.denominator
    return int(input_ * unit), int(cached * unit), int(output * unit), unit


def rounded_cost(rates: Rates | None, input_: int, cached: int, output: int) -> int | None:
    """Return the cost of tokens in whole nano-dollars; `input_` includes the cached ones."""
    if rates is None:
        return None
    per_input, per_cached, per_output, unit = rates
    exact = Fraction((input_ - cached) * per_input + cached * per_cached + output * per_output, unit)
    return round(exact)  # half to even, as decimal numbers round


def sums_by(counter: Counter[tuple[str, ...]], *positions: int) -> dict[tuple[str, ...], int]:
    """Return the sums by some of a label's values."""
    sums: Counter[tuple[str, ...]] = Counter()
    for label, value in counter.items():
        sums[tuple(label[position] for position in positions)] += value
    return dict(sums)
