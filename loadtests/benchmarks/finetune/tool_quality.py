"""Calls of tools: an adapter trained on a few hundred of them, against the prompted base, on held-out requests."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.finetune.jobs_api import JobDocument, JobsApi
from benchmarks.finetune.tool_data import write_tool_data
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.intervals import mean_interval
from loramux_adapters.evaluation.scorers.automatic import AutomaticScorer, choose_scorer
from loramux_adapters.evaluation.statistics import Spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.servers import ServerFailedError, ServerSetup, loramux_spec, running

EPOCHS = 2
TOOLS_TEMPLATE = "chatml-tools"
"""The demo's own template shows no tools."""
MIN_RIGHT_CALLS = 0.8
_CONCURRENCY, _MAX_TOKENS = 8, 80

Line = Mapping[str, Any]


async def measure_tools(setup: ServerSetup, scratch: Path, progress: StepProgress) -> BenchmarkReport:
    """Train on the generated calls while the engine runs, and ask base and adapter every held-out request."""
    setup = replace(setup, engine={**setup.engine, "chat_template": TOOLS_TEMPLATE})
    progress.set_total(4)
    progress.begin("starting loramux")
    training, test = await asyncio.to_thread(write_tool_data, scratch)
    async with (
        running(loramux_spec(setup, scratch / "data"), scratch / "log") as server,
        aiohttp.ClientSession(server.url) as session,
        ChatClient(server.url) as client,
    ):
        jobs_api = JobsApi(session, setup.base.name)
        progress.begin("training, and comparing with the prompted base")
        files = {"validation_file": await jobs_api.upload(test)}
        hyperparameters = {"n_epochs": EPOCHS}
        method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
        job_id = await jobs_api.create(await jobs_api.upload(training), method=method, **files)
        job = await jobs_api.wait_until_succeeded(job_id)
        lines = [json.loads(line) for line in (await asyncio.to_thread(test.read_text)).splitlines()]
        progress.begin("asking the adapter over HTTP")
        adapter = await _scores(client, job["fine_tuned_model"], lines)
        progress.begin("asking the base over HTTP")
        base = await _scores(client, setup.base.name, lines)
    return tool_report(setup, adapter, base, job, len(lines))


def tool_report(
    setup: ServerSetup,
    adapter: Mapping[str, Sequence[float]],
    base: Mapping[str, Sequence[float]],
    job: JobDocument,
    held_out: int,
) -> BenchmarkReport:
    """Return the report of the scores over HTTP, and of the job's own comparison."""
    return BenchmarkReport(
        "Fine-tuning on calls of tools",
        "A generated data set (loadtests/benchmarks/finetune/tool_calls.yaml, seeded) of eight tools was uploaded and "
        "trained through the OpenAI fine-tuning API. Then adapter and base got each held-out request with its tools, "
        "as a stream and with greedy decoding; calls were read by vLLM's parser. No phrase and no value of a held-out "
        "request is in the training data. A call is right if it is valid and its name and all arguments are as "
        "expected. Columns: mean, and the ends of its 95 % interval.",
        [*_metrics("adapter", adapter, MIN_RIGHT_CALLS), *_metrics("base, same prompt", base), *_prompted(job)],
        {"epochs": EPOCHS, "held_out": held_out, **setup.engine, **setup.environment},
        [{"job": job["loramux"]}],
        [f"- {_sentence(job)}"],
    )


async def _scores(client: ChatClient, model: str, lines: Sequence[Line]) -> dict[str, list[float]]:
    expected = [answer_text(line["messages"][-1]) for line in lines]
    scorer: AutomaticScorer = choose_scorer(expected, [line["tools"] for line in lines])
    semaphore = asyncio.Semaphore(_CONCURRENCY)

    async def one(line: Line, wanted: str) -> dict[str, float]:
        async with semaphore:
            extra = {"tools": line["tools"]}
            reply = await client.chat(model, line["messages"][:-1], max_tokens=_MAX_TOKENS, extra=extra)
        if not reply.ok:
            raise ServerFailedError(f"{model}: {reply.error}")
        return scorer.score(reply.text, wanted)

    scores = await asyncio.gather(*map(one, lines, expected))
    return {name: [found[name] for found in scores] for name in scorer.names}


def _metrics(model: str, scores: Mapping[str, Sequence[float]], minimum: float | None = None) -> list[Metric]:
    intervals = {name: mean_interval(values) for name, values in scores.items()}
    return [
        Metric(
            f"{model}: {name}",
            Spread(interval.estimate, interval.low, interval.high),
            "share",
            at_least=minimum if name == "right call" else None,
        )
        for name, interval in intervals.items()
    ]


def _prompted(job: JobDocument) -> list[Metric]:
    """Return the scores of the base with its best prompt, as the job's own comparison found it."""
    evaluation = job["loramux"]["evaluation"]
    if not evaluation:
        return []
    name, measure = evaluation["rival"], evaluation["measure"]
    found = evaluation["arms"][name]["scores"][measure]
    return [Metric(f"{name}: {measure}", Spread(found["mean"], found["low"], found["high"]), "share")]


def _sentence(job: JobDocument) -> str:
    ours = job["loramux"]
    verdict = ours["evaluation"]["sentence"] if ours["evaluation"] else "the job made no comparison"
    return f"{ours['examples']:,} examples, {ours['steps']:,} steps, {ours['tokens']:,} tokens. {verdict}"
