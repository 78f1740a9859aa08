"""What the ledger can do on this machine: `make bench-ledger`.

Beside the load tests, because a million requests are written faster than any server could be asked for them.
"""

import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated

import psutil
import sqlalchemy as sa
import typer
from numpy.random import Generator, default_rng
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.overhead.command import RESULTS
from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.report import Finding, Report, table, write
from loramux_server import database as db
from loramux_server.api.usage.report import Order, Question, Sources, report
from loramux_server.metering.charging import Accounts
from loramux_server.metering.cost_allocation import Share, Work
from loramux_server.metering.ledger.labels import GroupBy
from loramux_server.metering.ledger.reader import LedgerReader
from loramux_server.metering.ledger.repository import Book
from loramux_server.metering.ledger.time_range import Span
from loramux_server.metering.ledger.training_costs import TrainingBook
from loramux_server.metering.ledger.writer import LedgerWriter, Limits
from loramux_server.metering.pricing import Prices
from loramux_server.metering.usage_record import Operation, Outcome, Route, RunFacts, UsageRecord
from tests.helpers.usage_records import Watcher

HOUR, DAY = 3600, 86_400
BEGAN = 490_000 * HOUR
ADAPTERS, KEYS = 20, 5
PER_SECOND = 50
"""Requests in the simulated day."""
ROUTES = (Route(), *(Route(f"adapter-{number}", f"{number:012x}") for number in range(ADAPTERS)))
PRICES = Prices.model_validate({"base": {"input": 0.15, "output": 0.6}, "adapter": {"multiplier": 2}, "gpu_hour": 2.5})
MILLION_HOURS = 6
"""Whole hours with more than a million requests."""
ASKED = 5
"""How often each question is asked."""


class Clock:
    """A clock that is put forward by hand."""

    now = 0.0

    def nanoseconds(self) -> int:
        """For the accounts."""
        return round(self.now * 1e9)

    def unix(self) -> float:
        """For the writer."""
        return BEGAN + self.now


def requests(clock: Clock, chance: Generator) -> Iterator[UsageRecord]:
    """Requests that end when the clock says, on any route, most of them well."""
    while True:
        first, gap = chance.gamma(4, 0.02, 1000), chance.gamma(4, 0.005, 1000)
        tokens, route = chance.integers(1, 200, 1000), chance.integers(0, len(ROUTES), 1000)
        for number in range(1000):
            output = int(tokens[number])
            last = float(first[number] + gap[number] * (output - 1))
            facts = RunFacts(
                input_tokens=100, cached_tokens=64, output_tokens=output, queue=0.001, first_token=float(first[number]),
                last_token=last, finish_reason="stop",
            )  # fmt: skip
            yield UsageRecord(
                request_id=f"req_{number}", operation=Operation.CHAT, status=200, error=None,
                key_id=f"key_{number % KEYS}",
                outcome=Outcome.CANCELLED if number % 50 == 0 else Outcome.OK, route=ROUTES[route[number]],
                started_at=clock.unix() - last, duration=last, facts=facts, share=Share(),
            )  # fmt: skip


def simulate(writer: LedgerWriter, clock: Clock, seconds: int, steps: Steps) -> list[float]:
    """Let so much time pass with PER_SECOND requests in each second; resident megabytes after each hour of it."""
    accounts, coming = Accounts(PRICES, [writer], clock.nanoseconds), requests(clock, default_rng(0))
    memory = []
    for second in range(seconds):
        if second % HOUR == 0:
            steps.begin(f"hour {second // HOUR + 1} of {-(-seconds // HOUR)}")
        for record, _ in zip(coming, range(PER_SECOND), strict=False):
            with accounts.in_engine(record.share, partial(Work, 36, record.facts.output_tokens)):
                clock.now += 0.9 / PER_SECOND
            accounts.record(record)
        clock.now = second + 1.0
        accounts.settle()
        if second % 100 == 99:
            while writer.flush():
                pass
        if second % HOUR == HOUR - 1:
            memory.append(psutil.Process().memory_info().rss / 1e6)
    return memory


def writing(writer: LedgerWriter, count: int) -> float:
    """Records that are written in a second, when so many wait."""
    clock = Clock()
    coming = requests(clock, default_rng(1))
    accounts = Accounts(PRICES, [writer], clock.nanoseconds)
    for record, _ in zip(coming, range(count), strict=False):
        accounts.record(record)
    accounts.settle()
    started = time.monotonic()
    while writer.flush():
        pass
    return count / (time.monotonic() - started)


def answering(database: sa.Engine, span: Span, by: GroupBy) -> list[float]:
    """Seconds that the comparison takes, each time it is asked."""

    class Upkeep:
        def bills(self) -> "Upkeep":
            return self

        def to_earn(self, adapter: str, _mode: str) -> Decimal:
            return Decimal(len(adapter))

    sources = Sources(LedgerReader(database), TrainingBook(database, PRICES), Upkeep())
    taken = []
    for _ in range(ASKED):
        started = time.monotonic()
        report(sources, Question(span, by, {}, Order.COST, 100), PRICES.version)
        taken.append(time.monotonic() - started)
    return taken


def main(
    hours: Annotated[int, typer.Option(min=MILLION_HOURS, help="How much traffic is simulated.")] = 24,
    results: Annotated[Path, typer.Option(help="Where the report is written.")] = RESULTS,
) -> None:
    """Write a simulated day into a ledger, and ask it what each route cost; exit with 1 if a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="loramux-bench-") as folder, Steps() as steps:
        steps.expect(hours + 2)
        database, clock = db.create_engine(f"sqlite:///{folder}/loramux.sqlite3"), Clock()
        db.upgrade(database)
        writer = LedgerWriter(Book(database), Limits(waiting=10**6, record_days=400), Watcher(), clock.unix)
        memory = simulate(writer, clock, hours * HOUR, steps)
        steps.begin("writing as fast as it can")
        rates = [writing(writer, 20_000) for _ in range(3)]
        steps.begin("asking")
        end = BEGAN + hours * HOUR
        newest = Span(end - MILLION_HOURS * HOUR, end)
        asked = {by: answering(database, newest, by) for by in (GroupBy.ADAPTER, GroupBy.HOUR, GroupBy.KEY)}
        half_past = answering(database, Span(newest.since + HOUR / 2, newest.until - HOUR / 2), GroupBy.ADAPTER)
        everything = answering(database, Span(0, end), GroupBy.ADAPTER)
        database.dispose()
    found = Report(
        "The ledger",
        f"{hours} hours of {PER_SECOND} requests a second on {len(ROUTES)} routes with {KEYS} keys, simulated by a "
        "clock that is put forward, through the accounts and the writer into SQLite.",
        [
            Finding("written", spread(rates), "records/s", at_least=2000),
            *(
                Finding(f"1,000,000 records compared by {by}", spread(taken), "s", at_most=1)
                for by, taken in asked.items()
            ),
            Finding("the same from half past to half past", spread(half_past), "s"),
            Finding(f"all {hours * HOUR * PER_SECOND:,} records compared by adapter", spread(everything), "s"),
            Finding("memory at the end over that after the first hour", spread([memory[-1] / memory[0]]), at_most=1.05),
            Finding("memory at the end", spread(memory[-1:]), "MB"),
        ],
        {"hours": hours, "requests": hours * HOUR * PER_SECOND},
        [{"hour": number + 1, "resident_mb": value} for number, value in enumerate(memory)],
    )
    write(found, results, "ledger")
    Console().print(Markdown(table(found)))
    if not found.met:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
