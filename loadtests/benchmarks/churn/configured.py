"""Cost of adapters in the settings for a start whose folders have not changed since the last one."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.overhead.starts import MAX_EXTRA_START_S, SpecFactory, measure_in_turn
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.loadtest.local_servers import without_proof
from loramux_loadtests.servers import RunningServer, ServerSetup, loramux_spec, running
from loramux_loadtests.synthetic_adapters import write_adapter

NONE = "no adapters"


async def measure_configured(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, count: int, rounds: int
) -> BenchmarkReport:
    """Measure second starts with `count` adapters in the settings relative to starts without any, in pairs."""
    progress.set_total(3 + 2 * rounds)
    progress.begin(f"writing {count} adapters")
    folder = scratch / "adapters"
    folders = {f"a{i}": write_adapter(folder / f"a{i}", setup.base, seed=i, layers=[0]) for i in range(count)}
    specs: dict[str, SpecFactory] = {}
    first: dict[str, float] = {}
    for name, adapters in ((NONE, {}), (f"{count} adapters", folders)):
        progress.begin(f"first start with {name}")
        specs[name] = partial(loramux_spec, _configured(setup, adapters), scratch / f"data-{len(adapters)}")
        async with running(specs[name](), scratch / "first.log") as server:
            first[name] = server.start_seconds
    rows = await measure_in_turn(specs, rounds, scratch, progress, _start_seconds)
    many = f"{count} adapters"
    extra = spread([row[many] - row[NONE] for row in rows])
    return BenchmarkReport(
        f"Start of loramux with {count} adapters in its settings",
        "Second starts with these adapters, whose folders have not changed since the first, and starts without any, in "
        "pairs: seconds to the first 200 of /ready. The adapters have rank 1 on one module of one layer.",
        [
            Metric(f"start: {many} - {NONE}", extra, "s", at_most=MAX_EXTRA_START_S),
            *(Metric(f"start with {name}", spread([row[name] for row in rows]), "s") for name in specs),
            *(Metric(f"first start with {name}", spread([seconds]), "s") for name, seconds in first.items()),
        ],
        {"rounds": rounds, **setup.engine, **setup.environment},
        rows,
    )


def _configured(setup: ServerSetup, adapters: Mapping[str, Path]) -> ServerSetup:
    server_setup = without_proof(setup, adapters)
    names = json.dumps({name: str(path) for name, path in adapters.items()})
    return replace(server_setup, environment={**server_setup.environment, "LORAMUX_ADAPTERS": names})


async def _start_seconds(server: RunningServer) -> float:
    return server.start_seconds
