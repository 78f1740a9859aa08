"""What the load test's own client adds: `python -m benchmarks.client_overhead.command`, or `make bench-client`.

A server that streams at exact moments is asked at rising rates; what is measured beyond its moments is the client's.
"""

import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.overhead.command import RESULTS
from loramux_adapters.evaluation.statistics import quantile, spread
from loramux_loadtests.loadtest.progress import Watch
from loramux_loadtests.loadtest.rows import measured
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import Run, Target, run_load
from loramux_loadtests.loadtest.summary import LATE_S, client_health, of_load, seconds_of
from loramux_loadtests.report import Finding, Report, table, write
from loramux_loadtests.servers import ServerFailedError, ServerSpec, free_port, running

TTFT_S, TPOT_S, TOKENS = 0.05, 0.02, 16
GOAL_RATE = 1000.0
ADDED_AT_MOST_S = 0.02
"""What the client may add to the median time to the first token."""


def stub() -> ServerSpec:
    """The server of load/stub.py."""
    port = free_port()
    command = (sys.executable, "-m", "benchmarks.client_overhead.stub_server", str(port), str(TTFT_S), str(TPOT_S))
    return ServerSpec("stub", command, {}, port, ready_path="/v1/models")


async def measure(rates: Sequence[float], seconds: float, scratch: Path, watch: Watch) -> dict[float, Run]:
    """One load at each rate, one after the other."""
    runs = {}
    async with running(stub(), scratch / "stub.log") as server:
        for rate in rates:
            scenario = Scenario.model_validate(
                {
                    "title": f"{rate:g} streams a second",
                    "arrivals": {"process": "poisson", "rate": rate},
                    "mix": {"names": ["base"]},
                    "input": {"tokens": 64},
                    "output": {"tokens": TOKENS},
                    "duration": seconds,
                    "warm_up": {"requests": 200},
                }
            )
            runs[rate] = await run_load(scenario, Target("stub", server.url), 0, scratch / "rows.jsonl", watch)
    return runs


def report(runs: dict[float, Run], seconds: float) -> Report:
    """The client's lag, what it added, and the core it used, at each rate."""
    findings: list[Finding] = []
    for rate, run in runs.items():
        rows, what = of_load(run.rows), f"{rate:g} streams/s"
        goal = rate <= GOAL_RATE
        health = client_health(rows, run.client_busy)
        answered = [row for row in rows if row.error is None]
        ttfts, tpots = measured(rows, "ttft_scheduled"), measured(rows, "tpot")
        values = {
            "answered": (len(answered) / len(rows), "ratio", None),
            "answers": (len(answered) / seconds_of(rows), "1/s", None),
            "client lag p99": (health.lag_p99, "s", LATE_S),
            "added to TTFT from the scheduled moment, p50": (median(ttfts) - TTFT_S, "s", ADDED_AT_MOST_S),
            "added to TTFT from the scheduled moment, p99": (quantile(ttfts, 0.99) - TTFT_S, "s", None),
            "added to time per output token, p50": (median(tpots) - TPOT_S, "s", None),
            "one core, of which the client used": (health.busy or 0.0, "ratio", None),
        }
        findings += [
            Finding(f"{what}: {name}", spread([value]), unit, at_most=limit if goal else None)
            for name, (value, unit, limit) in values.items()
        ]
    return Report(
        "The load test's own client",
        f"A server that sends the first of {TOKENS} pieces after {TTFT_S * 1000:g} ms and then one each "
        f"{TPOT_S * 1000:g} ms, on the same machine, asked for {seconds:g} s at each rate (Poisson). What is measured "
        "beyond that, the client added; the server's own timers and the machine's other work are in it.",
        findings,
        {"seconds": seconds, "rates": list(runs)},
        [{"rate": rate, "requests": len(of_load(run.rows))} for rate, run in runs.items()],
    )


def main(
    rate: Annotated[list[float] | None, typer.Option(min=1, help="Streams a second. Again for another rate.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long at each rate.")] = 10.0,
    results: Annotated[Path, typer.Option(help="Where the report is written.")] = RESULTS,
) -> None:
    """Measure what the client adds, and exit with 1 if it is too much at 1,000 streams a second."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch, Watch() as watch:
            runs = uvloop.run(measure(rate or [250, 500, GOAL_RATE, 1500], seconds, Path(scratch), watch))
    except ServerFailedError as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error
    found = report(runs, seconds)
    write(found, results, "load-client")
    Console().print(Markdown(table(found)))
    if not found.met:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
