"""Write rate, query times and memory of the usage ledger on this machine: `make bench-ledger`.

It simulates requests, because no server here could answer a million of them.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import psutil
import sqlalchemy as sa
import typer
from numpy.random import Generator, default_rng

from benchmarks.command import RESULTS, run_benchmark
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from loramux_server import database as db
from loramux_server.api.usage.report import GroupOrder, UsageQuery, UsageSources, build_report
from loramux_server.metering.charging import ChargingMeter
from loramux_server.metering.cost_allocation import CostShare
from loramux_server.metering.fixed_costs import FixedCostSource
from loramux_server.metering.ledger.labels import GroupBy
from loramux_server.metering.ledger.reader import LedgerReader
from loramux_server.metering.ledger.repository import LedgerRepository
from loramux_server.metering.ledger.time_range import TimeRange
from loramux_server.metering.ledger.training_costs import TrainingCosts
from loramux_server.metering.ledger.writer import LedgerLimits, LedgerWriter
from loramux_server.metering.pricing import FixedPrices, Prices
from loramux_server.metering.usage_record import Operation, Outcome, Route, RunStats, UsageRecord
from tests.helpers.usage_records import RecordingLedgerObserver

HOUR, DAY = 3600, 86_400
START = 490_000 * HOUR
ADAPTERS, KEYS = 20, 5
PER_SECOND = 50
"""Simulated requests per second."""
ROUTES = (Route(), *(Route(f"adapter-{number}", f"{number:012x}") for number in range(ADAPTERS)))
PRICES = Prices.model_validate({"base": {"input": 0.15, "output": 0.6}, "adapter": {"multiplier": 2}, "gpu_hour": 2.5})
MILLION_HOURS = 6
"""Number of hours that have more than a million requests."""
QUERIES = 5
"""How often each query is repeated."""


class ManualClock:
    """A clock that the simulation advances."""

    now = 0.0

    def nanoseconds(self) -> int:
        """Return the time for the charging meter."""
        return round(self.now * 1e9)

    def unix(self) -> float:
        """Return the time for the ledger writer."""
        return START + self.now


class NoStorage:
    """Adapters without files, whose storage costs nothing."""

    def stored_bytes(self, adapter: str) -> int:  # noqa: ARG002
        """Return 0."""
        return 0


def requests(clock: ManualClock, rng: Generator) -> Iterator[UsageRecord]:
    """Yield usage records that end at the clock's time, on random routes, 2 % of them cancelled."""
    while True:
        first, gap = rng.gamma(4, 0.02, 1000), rng.gamma(4, 0.005, 1000)
        tokens, route = rng.integers(1, 200, 1000), rng.integers(0, len(ROUTES), 1000)
        for number in range(1000):
            output = int(tokens[number])
            last = float(first[number] + gap[number] * (output - 1))
            stats = RunStats(
                input_tokens=100, cached_tokens=64, output_tokens=output, queue=0.001, first_token=float(first[number]),
                last_token=last, finish_reason="stop",
            )  # fmt: skip
            yield UsageRecord(
                request_id=f"req_{number}", operation=Operation.CHAT, status=200, error=None,
                key_id=f"key_{number % KEYS}",
                outcome=Outcome.CANCELLED if number % 50 == 0 else Outcome.OK, route=ROUTES[route[number]],
                started_at=clock.unix() - last, duration=last, stats=stats, cost_share=CostShare(),
            )  # fmt: skip


def simulate(writer: LedgerWriter, clock: ManualClock, seconds: int, progress: StepProgress) -> list[float]:
    """Simulate `seconds` with PER_SECOND requests each; return the resident memory in MB after each hour."""
    meter, records = ChargingMeter(FixedPrices(PRICES), [writer], clock.nanoseconds), requests(clock, default_rng(0))
    memory = []
    for second in range(seconds):
        if second % HOUR == 0:
            progress.begin(f"hour {second // HOUR + 1} of {-(-seconds // HOUR)}")
        for record, _ in zip(records, range(PER_SECOND), strict=False):
            run = meter.start_run(record.cost_share)
            clock.now += 0.9 / PER_SECOND
            meter.count_step([(run, 36, record.stats.output_tokens)], clock.now)
            meter.end_run(run)
            meter.record(record)
        clock.now = second + 1.0
        meter.charge_ended()
        if second % 100 == 99:
            while writer.flush():
                pass
        if second % HOUR == HOUR - 1:
            memory.append(psutil.Process().memory_info().rss / 1e6)
    return memory


def measure_write_rate(writer: LedgerWriter, count: int) -> float:
    """Return how many records are written per second when `count` of them are waiting."""
    clock = ManualClock()
    records = requests(clock, default_rng(1))
    meter = ChargingMeter(FixedPrices(PRICES), [writer], clock.nanoseconds)
    for record, _ in zip(records, range(count), strict=False):
        meter.record(record)
    meter.charge_ended()
    started = time.monotonic()
    while writer.flush():
        pass
    return count / (time.monotonic() - started)


def measure_queries(database: sa.Engine, span: TimeRange, by: GroupBy) -> list[float]:
    """Return the seconds of each usage report of this time range."""

    training_costs = TrainingCosts(database, FixedPrices(PRICES))
    fixed_costs = FixedCostSource(FixedPrices(PRICES), NoStorage(), training_costs)
    sources = UsageSources(LedgerReader(database), training_costs, fixed_costs, lambda _name: (), [])
    seconds = []
    for _ in range(QUERIES):
        started = time.monotonic()
        build_report(sources, UsageQuery(span, span, by, {}, GroupOrder.COST, 100), PRICES)
        seconds.append(time.monotonic() - started)
    return seconds


def measure(scratch: Path, hours: int, progress: StepProgress) -> BenchmarkReport:
    """Write `hours` of simulated traffic into a ledger, and query it."""
    progress.set_total(hours + 2)
    database, clock = db.create_engine(f"sqlite:///{scratch}/loramux.sqlite3"), ManualClock()
    db.upgrade(database)
    limits = LedgerLimits(max_waiting=10**6, record_days=400)
    writer = LedgerWriter(LedgerRepository(database), limits, RecordingLedgerObserver(), clock.unix)
    memory = simulate(writer, clock, hours * HOUR, progress)
    progress.begin("measuring the write rate")
    rates = [measure_write_rate(writer, 20_000) for _ in range(3)]
    progress.begin("measuring queries")
    queries = _query_metrics(database, hours)
    database.dispose()
    return BenchmarkReport(
        "The ledger",
        f"{hours} hours of {PER_SECOND} requests per second on {len(ROUTES)} routes with {KEYS} keys, simulated with a "
        "manual clock, through the charging meter and the ledger writer into SQLite.",
        [
            Metric("records written", spread(rates), "records/s", at_least=2000),
            *queries,
            Metric("memory at the end / after the first hour", spread([memory[-1] / memory[0]]), at_most=1.05),
            Metric("memory at the end", spread(memory[-1:]), "MB"),
        ],
        {"hours": hours, "requests": hours * HOUR * PER_SECOND},
        [{"hour": number + 1, "resident_mb": value} for number, value in enumerate(memory)],
    )


def _query_metrics(database: sa.Engine, hours: int) -> list[Metric]:
    end = START + hours * HOUR
    newest = TimeRange(end - MILLION_HOURS * HOUR, end)
    half_past = TimeRange(newest.since + HOUR / 2, newest.until - HOUR / 2)
    by_group = {by: measure_queries(database, newest, by) for by in (GroupBy.ADAPTER, GroupBy.HOUR, GroupBy.KEY)}
    partial_hours = measure_queries(database, half_past, GroupBy.ADAPTER)
    everything = measure_queries(database, TimeRange(0, end), GroupBy.ADAPTER)
    return [
        *(Metric(f"1,000,000 records by {by}", spread(each), "s", at_most=1) for by, each in by_group.items()),
        Metric("the same from half past to half past", spread(partial_hours), "s"),
        Metric(f"all {hours * HOUR * PER_SECOND:,} records by adapter", spread(everything), "s"),
    ]


def main(
    hours: Annotated[int, typer.Option(min=MILLION_HOURS, help="Hours of simulated traffic.")] = 24,
    results: Annotated[Path, typer.Option(help="Folder for the report.")] = RESULTS,
) -> None:
    """Measure the usage ledger with simulated traffic. Exit code: 0; 1 if a goal is missed, 2 if it failed."""

    def measure_ledger(scratch: Path) -> BenchmarkReport:
        with StepProgress() as progress:
            return measure(scratch, hours, progress)

    raise typer.Exit(run_benchmark("ledger", measure_ledger, results))


if __name__ == "__main__":
    typer.run(main)
