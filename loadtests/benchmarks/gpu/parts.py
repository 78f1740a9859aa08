"""The parts of the GPU benchmark: one server each, with several cells measured on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.gaps import GapCell, loaded_by_request, loaded_by_stock, measure_gaps
from benchmarks.gpu.shapes import AdapterSet
from loramux_adapters.evaluation.statistics import quantile
from loramux_loadtests.loadtest.local_servers import without_proof
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.rows import measured_seconds
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import TargetServer, run_load
from loramux_loadtests.loadtest.summary import load_seconds, without_warm_up
from loramux_loadtests.loadtest.targets import LORAMUX, STOCK, started_server
from loramux_loadtests.servers import ServerSetup

SLOTS = 8
TEMPERATURE = 1.0


@dataclass(frozen=True)
class TrafficSize:
    """The amount of traffic per cell."""

    seconds: float
    """Seconds of steady load."""
    rate: float
    streams: int
    """Concurrent streams of the burst."""
    input_tokens: int
    output_tokens: int
    many: int
    """Number of small adapters."""
    gaps: int
    """Number of adapters that are loaded next to a stream."""


@dataclass(frozen=True)
class ServerPart:
    """One server and its cells: a mix of routes each, by name."""

    name: str
    server: str
    cells: Mapping[str, Mapping[str, Any]]
    gaps: bool = False
    """Whether the gaps of a stream during loads are measured, before the cells."""
    many: bool = False
    """Whether it has the many small adapters instead of those on all modules."""
    lora: bool = True


@dataclass(frozen=True)
class TableCell:
    """One line of the table."""

    server: str
    cell: str
    requests: int
    failed: int
    throughput: float
    """Output tokens per second of the burst."""
    ttft_p50: float
    """Seconds; this and the next fields are of the steady load."""
    ttft_p95: float
    tpot_p50: float


COMPARED: Mapping[str, Mapping[str, Any]] = {
    "base": {"names": [BASE]},
    "1 adapter": {"names": ["w0"]},
    f"{SLOTS} adapters": {"names": [f"w{n}" for n in range(SLOTS)], "popularity": "in turn"},
    f"{2 * SLOTS} adapters": {"names": [f"w{n}" for n in range(2 * SLOTS)], "popularity": "in turn"},
}


def all_parts(many: int) -> dict[str, ServerPart]:
    """Return all parts by name, in the order of measuring."""
    popular: Mapping[str, Mapping[str, Any]] = {
        f"{many} adapters, uniform": {"adapters": many},
        f"{many} adapters, skewed": {"adapters": many, "popularity": "zipf"},
    }
    found = (
        ServerPart(LORAMUX, LORAMUX, COMPARED, gaps=True),
        ServerPart(STOCK, STOCK, COMPARED, gaps=True),
        ServerPart("stock-without-lora", STOCK, {"base": COMPARED["base"]}, lora=False),
        ServerPart("many", LORAMUX, popular, many=True),
    )
    return {part.name: part for part in found}


async def measure(
    part: ServerPart, setup: ServerSetup, adapters: AdapterSet, size: TrafficSize, scratch: Path, progress: ProgressLine
) -> tuple[list[TableCell], list[GapCell]]:
    """Start the part's server and measure its gaps and cells.

    Raises:
        ServerFailedError: the server does not start.
        LoadTestError: an adapter can't be loaded.
    """
    # A stock vLLM loads the adapters that it is started with: those for the gaps are added later.
    starts_with = adapters.full | (adapters.for_gaps if part.server == LORAMUX else {})
    part_adapters = adapters.small if part.many else starts_with
    limits = {"max_loras": SLOTS, "max_cpu_loras": 4 * SLOTS, "max_lora_rank": 8}
    arguments = {**setup.engine, **(limits if part.lora else {"enable_lora": False})}
    part_setup = without_proof(
        ServerSetup(setup.base, {}, arguments, setup.environment), part_adapters if part.lora else {}
    )
    async with started_server(part.server, part_setup, scratch, progress) as target:
        name = part.server if part.lora else "stock, LoRA off"
        gaps = [await _measure_gaps(target, adapters, progress)] if part.gaps else []
        cells = [
            await _measure_cell(
                TargetServer(name, target.url, base=target.base), cell, mix, size, scratch, progress, number
            )
            for number, (cell, mix) in enumerate(part.cells.items())
        ]
    return cells, gaps


async def _measure_gaps(target: TargetServer, adapters: AdapterSet, progress: ProgressLine) -> GapCell:
    progress.begin(f"{target.name}: loading next to a stream")
    load = loaded_by_request if target.name == LORAMUX else loaded_by_stock(target.url, adapters.for_gaps)
    return await measure_gaps(target.name, target.url, target.base or "", list(adapters.for_gaps), load)


async def _measure_cell(
    target: TargetServer,
    cell: str,
    mix: Mapping[str, Any],
    size: TrafficSize,
    scratch: Path,
    progress: ProgressLine,
    number: int,
) -> TableCell:
    """Measure a steady load and then a burst, without repeating a prompt."""
    steady: Mapping[str, Any] = {"arrivals": {"process": "poisson", "rate": size.rate}, "duration": size.seconds}
    burst: Mapping[str, Any] = {
        "arrivals": {"process": "bursts", "rate": size.streams, "size": size.streams},
        "requests": size.streams,
    }
    rows = []
    for seed, arrivals in enumerate((steady, burst), start=2 * number):
        scenario = Scenario.model_validate(
            {
                "title": cell,
                "mix": mix,
                "input": {"tokens": size.input_tokens},
                "output": {"tokens": size.output_tokens, "temperature": TEMPERATURE},
                "warm_up": {"requests": 4 if seed % 2 == 0 else 0, "routes": mix.get("names", [BASE])},
                **arrivals,
            }
        )
        run = await run_load(scenario, target, seed, scratch / f"{target.name}-{number}-{seed}.jsonl", progress)
        rows.append(without_warm_up(run.rows))
    loaded, burst_rows = rows
    return TableCell(
        target.name,
        cell,
        requests=sum(map(len, rows)),
        failed=sum(row.error is not None for each in rows for row in each),
        throughput=sum(row.output_tokens for row in burst_rows) / load_seconds(burst_rows),
        ttft_p50=_quantile(measured_seconds(loaded, "ttft"), 0.5),
        ttft_p95=_quantile(measured_seconds(loaded, "ttft"), 0.95),
        tpot_p50=_quantile(measured_seconds(loaded, "tpot"), 0.5),
    )


def _quantile(values: Sequence[float], q: float) -> float:
    return quantile(values, q) if values else 0.0
