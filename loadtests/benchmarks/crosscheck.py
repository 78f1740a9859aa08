"""Our figures beside those of `vllm bench serve`, of the same server: `make bench-crosscheck`."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from numpy.random import default_rng
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.bursts import SETTLE_SECONDS
from benchmarks.overhead.command import RESULTS
from loramux_adapters.evaluation.statistics import paired_ratio
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.local_servers import demo_base
from loramux_loadtests.loadtest.progress import Watch
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.session import Target, run_load
from loramux_loadtests.loadtest.summary import Conditions, of_load, seconds_of, summarize
from loramux_loadtests.loadtest.targets import serving
from loramux_loadtests.loadtest.vllm_keys import vllm_result
from loramux_loadtests.report import Finding, Report, table, write
from loramux_loadtests.servers import ServerFailedError

AGREES_WITHIN = 0.05
FIGURES = ("output_throughput", "median_ttft_ms", "median_tpot_ms", "median_e2el_ms", "total_input_tokens")
PROMPT_NUMBERS, OUTPUT_TOKENS = 10, 32
# The `vllm` command is broken in some builds, so its benchmark is called by its module.
BENCHMARK = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Traffic:
    """What both tools send: `requests` at even gaps, `rate` a second."""

    requests: int
    rate: float
    rounds: int


async def crosscheck(server: str, traffic: Traffic, scratch: Path, watch: Watch) -> Report:
    """Both tools in turn on one server, never with a prompt that came before."""
    base = await demo_base(watch.begin)
    chance = default_rng(0)
    rounds: list[dict[str, Figures]] = []
    async with serving(server, _scenario(scratch / "none", traffic), None, None, watch) as target:
        for number in range(traffic.rounds):
            found: dict[str, Figures] = {}
            for tool in ("ours", "vllm")[:: 1 if number % 2 == 0 else -1]:
                corpus = scratch / f"{tool}-{number}.jsonl"
                texts = random_prompts(traffic.requests, chance, PROMPT_NUMBERS)
                corpus.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
                watch.begin(f"round {number + 1} of {traffic.rounds}: {tool}")
                await asyncio.sleep(SETTLE_SECONDS)
                found[tool] = await (
                    _ours(target, corpus, traffic, scratch, watch)
                    if tool == "ours"
                    else _theirs(target, corpus, traffic, base, scratch)
                )
            rounds.append(found)
    return Report(
        "Our load test beside vLLM's benchmark",
        f"{traffic.requests} requests at even gaps, {traffic.rate:g} a second, to the base of one server ({server}), "
        f"by each tool in turn; {OUTPUT_TOKENS} output tokens. Ratios are ours / those of `vllm bench serve`, round by "
        "round.",
        [_agreement(name, rounds) for name in FIGURES],
        {"requests": traffic.requests, "rate": traffic.rate, "rounds": traffic.rounds},
        rounds,
    )


def _agreement(name: str, rounds: Sequence[Mapping[str, Figures]]) -> Finding:
    ratio = paired_ratio([each["ours"][name] for each in rounds], [each["vllm"][name] for each in rounds])
    return Finding(name, ratio, at_least=1 - AGREES_WITHIN, at_most=1 + AGREES_WITHIN)


def _scenario(corpus: Path, traffic: Traffic) -> Scenario:
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


async def _ours(target: Target, corpus: Path, traffic: Traffic, scratch: Path, watch: Watch) -> Figures:
    run = await run_load(_scenario(corpus, traffic), target, 0, scratch / "rows.jsonl", watch)
    rows = of_load(run.rows)
    figures = vllm_result(rows, summarize(rows, seconds_of(rows), Conditions()))
    return {name: float(figures[name] or 0) for name in FIGURES}


async def _theirs(target: Target, corpus: Path, traffic: Traffic, base: Path, scratch: Path) -> Figures:
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
    words = [f"--{name}={value}" for name, value in options.items()]
    flags = ["--skip-chat-template", "--ignore-eos", "--save-result", "--disable-tqdm"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BENCHMARK, *words, *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    result = scratch / "vllm.json"
    if process.returncode or not result.exists():
        raise LoadTestError(f"vLLM's benchmark ended with {process.returncode}:\n{output.decode()[-2000:]}")
    found = json.loads(result.read_text())
    if found["failed"]:
        raise LoadTestError(f"{found['failed']} requests of vLLM's benchmark failed")
    return {name: float(found[name]) for name in FIGURES}


def main(
    server: Annotated[str, typer.Option(help="`stock` or `loramux`, started for this.")] = "stock",
    requests: Annotated[int, typer.Option(min=2, help="Of each tool in each round.")] = 40,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests a second.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each tool has its turn.")] = 3,
    results: Annotated[Path, typer.Option(help="Where the report is written.")] = RESULTS,
) -> None:
    """Compare our figures with those of vLLM's own benchmark, and exit with 1 if they are more than 5 % apart."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch, Watch() as watch:
            found = uvloop.run(crosscheck(server, Traffic(requests, rate, rounds), Path(scratch), watch))
    except (ServerFailedError, LoadTestError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    write(found, results, "load-crosscheck")
    Console().print(Markdown(table(found)))
    if not found.met:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
