"""Quality of adapters trained with default settings, on held-out test items."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.finetune.jobs_api import JobDocument, JobsApi
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.intervals import mean_interval
from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_adapters.evaluation.statistics import Interval, Spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.servers import ServerFailedError, ServerSetup, loramux_spec, running

CONCURRENCY = 8
MAX_TOKENS = 96


@dataclass(frozen=True)
class DataSet:
    """A folder with train.jsonl and test.jsonl, and minimum shares of right answers by score."""

    folder: Path
    goals: dict[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """The result of one job: scores are shares of the test items with 95 % intervals."""

    job: JobDocument
    seconds: float
    """From creating the job to its end: queue, loading, training, proofs."""
    items: int
    scores: dict[str, Interval]


async def measure_quality(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, data_sets: Sequence[DataSet], limit: int | None
) -> BenchmarkReport:
    """Train on each data set with default settings while the engine runs, and score the served adapters."""
    progress.set_total(1 + 2 * len(data_sets))
    progress.begin("starting loramux")
    results: dict[str, TrainingResult] = {}
    async with (
        running(loramux_spec(setup, scratch / "data"), scratch / "log") as server,
        aiohttp.ClientSession(server.url) as session,
        ChatClient(server.url) as client,
    ):
        jobs_api = JobsApi(session, setup.base.name)
        for data in data_sets:
            progress.begin(f"training on {data.folder.name}")
            began = time.monotonic()
            job = await jobs_api.wait_until_succeeded(
                await jobs_api.create(await jobs_api.upload(data.folder / "train.jsonl"))
            )
            seconds = time.monotonic() - began
            progress.begin(f"scoring {data.folder.name}")
            scores = await score_adapter(client, job["fine_tuned_model"], data.folder / "test.jsonl", limit)
            intervals = {name: mean_interval(values) for name, values in scores.items()}
            results[data.folder.name] = TrainingResult(job, seconds, len(next(iter(scores.values()))), intervals)
    return BenchmarkReport(
        "Fine-tuning with default settings",
        "Each data set was uploaded and trained through the OpenAI fine-tuning API of a server whose engine kept "
        "running, without hyperparameters; then its adapter answered each test item once, with greedy decoding. For "
        "shares, the columns are the mean and the ends of its 95 % interval.",
        [metric for data in data_sets for metric in _metrics(data, results[data.folder.name])],
        {"limit": limit, **setup.engine, **setup.environment},
        [
            {"data": name, "seconds": found.seconds, "items": found.items, "job": found.job["loramux"]}
            for name, found in results.items()
        ],
        [f"- {name}: {_format_result(found)}" for name, found in results.items()],
    )


async def score_adapter(client: ChatClient, model: str, test: Path, limit: int | None) -> dict[str, list[float]]:
    """Return the scores of a model's answers to the items of a test file, at most `limit`, by name.

    Raises:
        ServerFailedError: a request failed.
    """
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def one(messages: list[dict[str, Any]]) -> dict[str, float]:
        async with semaphore:
            reply = await client.chat(model, messages[:-1], max_tokens=MAX_TOKENS)
        if not reply.ok:
            raise ServerFailedError(f"{model}: {reply.error}")
        return score(reply.text, messages[-1]["content"])

    lines = (await asyncio.to_thread(test.read_text)).splitlines()
    items = [json.loads(line)["messages"] for line in lines][:limit]
    scores = await asyncio.gather(*map(one, items))
    return {name: [found[name] for found in scores] for name in scores[0]}


def score(answer: str, expected: str) -> dict[str, float]:
    """Score an answer; if a JSON object is expected, also whether it is one, and whether its name is right."""
    scores = {"exact": float(answer.strip() == expected.strip())}
    right, found = parse_json_object(expected), parse_json_object(answer)
    if right is None:
        return scores
    scores |= {"exact": float(found == right), "valid JSON": float(found is not None)}
    if "name" in right:
        scores["right name"] = float(found is not None and found.get("name") == right["name"])
    return scores


def _metrics(data: DataSet, found: TrainingResult) -> list[Metric]:
    name, ours = data.folder.name, found.job["loramux"]
    shares = [
        Metric(
            f"{name}: {score}",
            Spread(interval.estimate, interval.low, interval.high),
            "share",
            at_least=data.goals.get(score),
        )
        for score, interval in found.scores.items()
    ]
    single = {
        "from creating the job to serving": (found.seconds, "s"),
        "training alone": (ours["seconds"], "s"),
        "speed": (ours["tokens_per_second"], "tokens/s"),
        "trained share of the base's parameters": (100 * ours["trained_share"], "%"),
    }
    return shares + [
        Metric(f"{name}: {measure}", Spread(*[value] * 3), unit) for measure, (value, unit) in single.items()
    ]


def _format_result(found: TrainingResult) -> str:
    ours = found.job["loramux"]
    recipe = {key: value for key, value in ours["recipe"].items() if value is not None}
    return (
        f"{ours['examples']:,} examples, {ours['steps']:,} steps, {ours['tokens']:,} tokens, {found.items} test items; "
        f"recipe chosen: `{json.dumps(recipe)}`"
    )
