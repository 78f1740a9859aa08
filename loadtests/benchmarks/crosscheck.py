"""Comparison of our load test with `vllm bench serve` on the same server: `make bench-crosscheck`."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from numpy.random import default_rng

from benchmarks.bursts import settle
from benchmarks.command import RESULTS, run_benchmark
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import paired_ratio
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import demo_base
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import TargetServer, run_load
from loramux_loadtests.loadtest.summary import SummaryOptions, load_seconds, summarize_rows, without_warm_up
from loramux_loadtests.loadtest.targets import target_server
from loramux_loadtests.loadtest.vllm_keys import vllm_result

TOLERANCE = 0.05
COMPARED_KEYS = ("output_throughput", "median_ttft_ms", "median_tpot_ms", "median_e2el_ms", "total_input_tokens")
PROMPT_NUMBERS, OUTPUT_TOKENS = 10, 32
# The `vllm` command is broken in some builds, so this calls the module of its benchmark.
BENCHMARK = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""

Figures = Mapping[str, float]


@dataclass(frozen=True)
class CrosscheckTraffic:
    """The traffic of both tools: `requests` at equal intervals, `rate` per second."""

    requests: int
    rate: float
    rounds: int


async def crosscheck(server: str, traffic: CrosscheckTraffic, scratch: Path, progress: ProgressLine) -> BenchmarkReport:
    """Measure one server with both tools in turn, without repeating a prompt."""
    base = await demo_base(progress.begin)
    rng = default_rng(0)
    rounds: list[dict[str, Figures]] = []
    async with target_server(server, _scenario(scratch / "none", traffic), None, None, progress) as target:
        for number in range(traffic.rounds):
            found: dict[str, Figures] = {}
            for tool in ("ours", "vllm")[:: 1 if number % 2 == 0 else -1]:
                corpus = scratch / f"{tool}-{number}.jsonl"
                texts = random_prompts(traffic.requests, rng, PROMPT_NUMBERS)
                corpus.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
                progress.begin(f"round {number + 1} of {traffic.rounds}: {tool}")
                await settle()
                found[tool] = await (
                    _measure_loramux(target, corpus, traffic, scratch, progress)
                    if tool == "ours"
                    else _measure_vllm(target, corpus, traffic, base, scratch)
                )
            rounds.append(found)
    return BenchmarkReport(
        "Our load test compared with vLLM's benchmark",
        f"{traffic.requests} requests at equal intervals, {traffic.rate:g} per second, to the base of one "
        f"server ({server}), "
        f"by each tool in turn; {OUTPUT_TOKENS} output tokens. Ratios are ours / `vllm bench serve`, within "
        "each round.",
        [_ratio_metric(name, rounds) for name in COMPARED_KEYS],
        {"requests": traffic.requests, "rate": traffic.rate, "rounds": traffic.rounds},
        rounds,
    )


def _ratio_metric(name: str, rounds: Sequence[Mapping[str, Figures]]) -> Metric:
    ratio = paired_ratio([each["ours"][name] for each in rounds], [each["vllm"][name] for each in rounds])
    return Metric(name, ratio, at_least=1 - TOLERANCE, at_most=1 + TOLERANCE)


def _scenario(corpus: Path, traffic: CrosscheckTraffic) -> Scenario:
    return Scenario.model_validate(
        {
            "title": "Cross-check",
            "arrivals": {"process": "constant", "rate": traffic.rate},
            "mix": {"names": ["base"]},
            "input": {"corpus": corpus},
            "output": {"tokens": OUTPUT_TOKENS},
            "requests": traffic.requests,
            "warm_up": {"requests": 2},
        }
    )


async def _measure_loramux(
    target: TargetServer, corpus: Path, traffic: CrosscheckTraffic, scratch: Path, progress: ProgressLine
) -> Figures:
    run = await run_load(_scenario(corpus, traffic), target, 0, scratch / "rows.jsonl", progress)
    rows = without_warm_up(run.rows)
    figures = vllm_result(rows, summarize_rows(rows, load_seconds(rows), SummaryOptions()))
    return {name: float(figures[name] or 0) for name in COMPARED_KEYS}


async def _measure_vllm(
    target: TargetServer, corpus: Path, traffic: CrosscheckTraffic, base: Path, scratch: Path
) -> Figures:
    options: dict[str, object] = {
        "backend": "openai-chat",
        "endpoint": "/v1/chat/completions",
        "base-url": target.url,
        "model": target.base or base.name,
        "tokenizer": base,
        "dataset-name": "custom",
        "dataset-path": corpus,
        "num-prompts": traffic.requests,
        "output-len": OUTPUT_TOKENS,
        "request-rate": traffic.rate,
        "burstiness": "inf",
        "num-warmups": 2,
        "percentile-metrics": "ttft,tpot,e2el",
        "temperature": 0,
        "result-dir": scratch,
        "result-filename": "vllm.json",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    flags = ["--skip-chat-template", "--ignore-eos", "--save-result", "--disable-tqdm"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BENCHMARK, *arguments, *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    result = scratch / "vllm.json"
    if process.returncode or not result.exists():
        raise LoadTestError(f"vLLM's benchmark exited with code {process.returncode}:\n{output.decode()[-2000:]}")
    found = json.loads(result.read_text())
    if found["failed"]:
        raise LoadTestError(f"{found['failed']} requests of vLLM's benchmark failed")
    return {name: float(found[name]) for name in COMPARED_KEYS}


def main(
    server: Annotated[str, typer.Option(help="Server to start: `stock` or `loramux`.")] = "stock",
    requests: Annotated[int, typer.Option(min=2, help="Requests per tool and round.")] = 40,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests per second.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; both tools are measured in each.")] = 3,
    results: Annotated[Path, typer.Option(help="Folder for the report.")] = RESULTS,
) -> None:
    """Compare our results with vLLM's benchmark. Exit code: 0; 1 if they differ by over 5 %, 2 if it failed."""

    def measure(scratch: Path) -> BenchmarkReport:
        with ProgressLine() as progress:
            return uvloop.run(crosscheck(server, CrosscheckTraffic(requests, rate, rounds), scratch, progress))

    raise typer.Exit(run_benchmark("load-crosscheck", measure, results))


if __name__ == "__main__":
    typer.run(main)
