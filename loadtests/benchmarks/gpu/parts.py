"""What is measured: servers to start, and on each of them a few cells."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.shapes import Adapters
from loramux_adapters.evaluation.statistics import quantile
from loramux_loadtests.loadtest.local_servers import without_proof
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.progress import Watch
from loramux_loadtests.loadtest.report import write_json
from loramux_loadtests.loadtest.rows import measured
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import Target, run_load
from loramux_loadtests.loadtest.summary import of_load, seconds_of
from loramux_loadtests.loadtest.targets import LORAMUX, STOCK, started
from loramux_loadtests.servers import Setup

SLOTS = 8
TEMPERATURE = 1.0


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    seconds: float
    """Of steady load in each cell."""
    rate: float
    streams: int
    """Of the burst in each cell, which all begin at once."""
    input_tokens: int
    output_tokens: int
    many: int
    """Small adapters."""


@dataclass(frozen=True)
class Part:
    """One server, and the cells measured on it: a mix of routes each, by its name."""

    name: str
    server: str
    cells: Mapping[str, Mapping[str, Any]]
    many: bool = False
    """Whether it has the small adapters instead of those on all modules."""
    lora: bool = True


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    server: str
    cell: str
    requests: int
    failed: int
    throughput: float
    """Output tokens a second of a burst."""
    ttft_p50: float
    """Seconds, of the steady load as are those that follow."""
    ttft_p95: float
    tpot_p50: float


COMPARED: Mapping[str, Mapping[str, Any]] = {
    "base": {"names": [BASE]},
    "1 adapter": {"names": ["w0"]},
    f"{SLOTS} adapters": {"names": [f"w{n}" for n in range(SLOTS)], "popularity": "in turn"},
    f"{2 * SLOTS} adapters": {"names": [f"w{n}" for n in range(2 * SLOTS)], "popularity": "in turn"},
}


def parts(many: int) -> dict[str, Part]:
    """All parts by name, in the order in which they are measured."""
    popular: Mapping[str, Mapping[str, Any]] = {
        f"{many} adapters, uniform": {"adapters": many},
        f"{many} adapters, skewed": {"adapters": many, "popularity": "zipf"},
    }
    found = (
        Part(LORAMUX, LORAMUX, COMPARED),
        Part(STOCK, STOCK, COMPARED),
        Part("stock-without-lora", STOCK, {"base": COMPARED["base"]}, lora=False),
        Part("many", LORAMUX, popular, many=True),
    )
    return {part.name: part for part in found}


async def measure(part: Part, setup: Setup, adapters: Adapters, size: Size, scratch: Path, watch: Watch) -> list[Cell]:
    """Start the part's server and measure its cells. ServerFailedError if it does not start."""
    its = adapters.small if part.many else adapters.whole
    limits = {"max_loras": SLOTS, "max_cpu_loras": 4 * SLOTS, "max_lora_rank": 8}
    arguments = {**setup.engine, **(limits if part.lora else {"enable_lora": False})}
    its_setup = without_proof(Setup(setup.base, {}, arguments, setup.environment), its if part.lora else {})
    async with started(part.server, its_setup, scratch, watch) as target:
        name = part.server if part.lora else "stock, LoRA off"
        return [
            await _cell(Target(name, target.url, base=target.base), cell, mix, size, scratch, watch, number)
            for number, (cell, mix) in enumerate(part.cells.items())
        ]


async def _cell(
    target: Target, cell: str, mix: Mapping[str, Any], size: Size, scratch: Path, watch: Watch, number: int
) -> Cell:
    """A steady load, and then a burst, each with prompts that never came before."""
    steady: Mapping[str, Any] = {"arrivals": {"process": "poisson", "rate": size.rate}, "duration": size.seconds}
    burst: Mapping[str, Any] = {
        "arrivals": {"process": "bursts", "rate": size.streams, "size": size.streams},
        "requests": size.streams,
    }
    rows = []
    for seed, arriving in enumerate((steady, burst), start=2 * number):
        scenario = Scenario.model_validate(
            {
                "title": cell,
                "mix": mix,
                "input": {"tokens": size.input_tokens},
                "output": {"tokens": size.output_tokens, "temperature": TEMPERATURE},
                "warm_up": {"requests": 4 if seed % 2 == 0 else 0, "routes": mix.get("names", [BASE])},
                **arriving,
            }
        )
        run = await run_load(scenario, target, seed, scratch / f"{target.name}-{number}-{seed}.jsonl", watch)
        rows.append(of_load(run.rows))
    loaded, burst_rows = rows
    return Cell(
        target.name,
        cell,
        requests=sum(map(len, rows)),
        failed=sum(row.error is not None for each in rows for row in each),
        throughput=sum(row.output_tokens for row in burst_rows) / seconds_of(burst_rows),
        ttft_p50=_quantile(measured(loaded, "ttft"), 0.5),
        ttft_p95=_quantile(measured(loaded, "ttft"), 0.95),
        tpot_p50=_quantile(measured(loaded, "tpot"), 0.5),
    )


def _quantile(values: Sequence[float], q: float) -> float:
    return quantile(values, q) if values else 0.0


def keep(part: Part, cells: Sequence[Cell], begun: float, folder: Path, about: Mapping[str, Any]) -> None:
    """Write a part's cells, so that a later call has them too."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "part": part.name,
        "seconds": time.monotonic() - begun,
        "about": about,
        "cells": list(map(asdict, cells)),
    }
    write_json(folder / f"gpu-{part.name}.json", content)
