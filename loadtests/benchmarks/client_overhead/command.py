"""Latency added by the load test's client: `python -m benchmarks.client_overhead`, or `make bench-client`.

A stub server streams at exact times, at rising request rates; any extra time was added by the client.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
import uvloop

from benchmarks.command import RESULTS, run_benchmark
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import quantile, spread
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.rows import measured_seconds
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import LoadRun, TargetServer, run_load
from loramux_loadtests.loadtest.summary import MAX_LAG_S, client_health, load_seconds, without_warm_up
from loramux_loadtests.servers import ServerSpec, free_port, running

TTFT_S, TPOT_S, TOKENS = 0.05, 0.02, 16
GOAL_RATE = 1000.0
MAX_ADDED_S = 0.02
"""Maximum that the client may add to the median time to first token."""


def stub_spec() -> ServerSpec:
    """Return how to start the stub server."""
    port = free_port()
    command = (sys.executable, "-m", "benchmarks.client_overhead.stub_server", str(port), str(TTFT_S), str(TPOT_S))
    return ServerSpec("stub", command, {}, port, ready_path="/v1/models")


async def measure_rates(
    rates: Sequence[float], seconds: float, scratch: Path, progress: ProgressLine
) -> dict[float, LoadRun]:
    """Run one load per rate."""
    runs = {}
    async with running(stub_spec(), scratch / "stub.log") as server:
        for rate in rates:
            scenario = Scenario.model_validate(
                {
                    "title": f"{rate:g} streams per second",
                    "arrivals": {"process": "poisson", "rate": rate},
                    "mix": {"names": ["base"]},
                    "input": {"tokens": 64},
                    "output": {"tokens": TOKENS},
                    "duration": seconds,
                    "warm_up": {"requests": 200},
                }
            )
            runs[rate] = await run_load(scenario, TargetServer("stub", server.url), 0, scratch / "rows.jsonl", progress)
    return runs


def report(runs: dict[float, LoadRun], seconds: float) -> BenchmarkReport:
    """Report the client's lag, added latency and CPU use at each rate."""
    metrics: list[Metric] = []
    for rate, run in runs.items():
        rows, case = without_warm_up(run.rows), f"{rate:g} streams/s"
        goal = rate <= GOAL_RATE
        health = client_health(rows, run.client_busy)
        answered = [row for row in rows if row.error is None]
        ttfts, tpots = measured_seconds(rows, "ttft_scheduled"), measured_seconds(rows, "tpot")
        values = {
            "answered": (len(answered) / len(rows), "ratio", None),
            "answers": (len(answered) / load_seconds(rows), "1/s", None),
            "client lag p99": (health.lag_p99, "s", MAX_LAG_S),
            "added to TTFT from the scheduled time, p50": (median(ttfts) - TTFT_S, "s", MAX_ADDED_S),
            "added to TTFT from the scheduled time, p99": (quantile(ttfts, 0.99) - TTFT_S, "s", None),
            "added to time per output token, p50": (median(tpots) - TPOT_S, "s", None),
            "share of one core used by the client": (health.busy or 0.0, "ratio", None),
        }
        metrics += [
            Metric(f"{case}: {name}", spread([value]), unit, at_most=limit if goal else None)
            for name, (value, unit, limit) in values.items()
        ]
    return BenchmarkReport(
        "The load test's own client",
        f"A stub server on the same machine sends the first of {TOKENS} chunks after {TTFT_S * 1000:g} ms "
        "and the others "
        f"every {TPOT_S * 1000:g} ms, for {seconds:g} s per rate (Poisson). The client added all time beyond that, "
        "apart from the stub server's timers and other work on the machine.",
        metrics,
        {"seconds": seconds, "rates": list(runs)},
        [{"rate": rate, "requests": len(without_warm_up(run.rows))} for rate, run in runs.items()],
    )


def main(
    rate: Annotated[list[float] | None, typer.Option(min=1, help="Streams per second. May be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds per rate.")] = 10.0,
    results: Annotated[Path, typer.Option(help="Folder for the report.")] = RESULTS,
) -> None:
    """Measure what the client adds. Exit code: 0; 1 if it is too much at 1,000 streams per second, 2 if it failed."""
    rates = rate or [250, 500, GOAL_RATE, 1500]

    def measure(scratch: Path) -> BenchmarkReport:
        with ProgressLine() as progress:
            return report(uvloop.run(measure_rates(rates, seconds, scratch, progress)), seconds)

    raise typer.Exit(run_benchmark("load-client", measure, results))
