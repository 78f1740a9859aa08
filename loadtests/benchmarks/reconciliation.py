"""Whether the costs of simulated requests add up to the nano-dollar, and how long a million take: `make bench-costs`.

Prices change, the server restarts, and there are spells without prices. A second account by other formulas is compared.
"""

import time
from pathlib import Path
from typing import Annotated, SupportsFloat

import typer

from benchmarks.command import RESULTS, run_benchmark
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from loramux_server.metering.ledger.labels import GroupBy
from loramux_server.metering.ledger.reader import LedgerReader
from loramux_server.metering.ledger.time_range import TimeRange
from tests.helpers.reconciliation import Simulation
from tests.helpers.usage_records import NOON, database


def measure(scratch: Path, count: int) -> BenchmarkReport:
    """Simulate `count` requests into a ledger, and compare it with the second account."""
    simulation, started = Simulation(database(scratch), count), time.monotonic()
    simulation.run()
    seconds = time.monotonic() - started
    account, end = simulation.account, NOON + simulation.now / 1e9 + 7200
    groups = LedgerReader(simulation.database).usage(TimeRange(NOON - 3600, end), GroupBy.VERSION).values()
    rest = simulation.machine_cost - simulation.shares - simulation.idle - simulation.unallocated
    differences = {
        mode: sum(group.sums[f"{mode}_cost"] for group in groups) - sum(getattr(account, mode).values())
        for mode in ("price_list", "gpu_hour")
    }
    simulation.database.dispose()
    return BenchmarkReport(
        "Costs of simulated requests",
        f"{count:,} requests, 8 at once, through the charging meter and the ledger writer into SQLite, with "
        f"{simulation.lives} lives of the server and changes of prices, among them lists without prices. The remainder "
        "is what rounding leaves: less than a nano-dollar of busy time and one of idle time per life of a server.",
        [
            _metric("machine time's cost - shares - idle - unallocated", rest, at_most=2 * simulation.lives),
            *(_metric(f"ledger - second account, {mode}", value, at_most=0) for mode, value in differences.items()),
            _metric("requests without token prices", sum(account.price_list_unpriced.values()), "requests"),
            _metric("requests on time without a price", sum(account.gpu_hour_unpriced.values()), "requests"),
            _metric("cost of machine time", simulation.machine_cost / 10**9, "dollars"),
            _metric("duration", seconds, "s"),
        ],
        {"requests": count},
        [],
    )


def _metric(name: str, value: SupportsFloat, unit: str = "nano-dollars", at_most: float | None = None) -> Metric:
    return Metric(name, spread([float(value)]), unit, None if at_most is None else 0, at_most)


def main(
    requests: Annotated[int, typer.Option(min=1000, help="Number of simulated requests.")] = 1_000_000,
    results: Annotated[Path, typer.Option(help="Folder for the report.")] = RESULTS,
) -> None:
    """Reconcile the costs of simulated requests. Exit code: 0; 1 if a nano-dollar is missing, 2 if it failed."""
    raise typer.Exit(run_benchmark("reconciliation", lambda scratch: measure(scratch, requests), results))


if __name__ == "__main__":
    typer.run(main)
