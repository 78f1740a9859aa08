"""What a job with default settings makes of a data set, on answers that nobody has learned."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.finetune.jobs_api import Job, Tuner
from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import Interval, Spread, bootstrap_interval
from loramux_loadtests.client import Client
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import ServerFailedError, Setup, loramux, running

AT_ONCE = 8
MOST_TOKENS = 96


@dataclass(frozen=True)
class Lesson:
    """A data set: train.jsonl and test.jsonl in `folder`, and the least share of right answers."""

    folder: Path
    goals: dict[str, float]


@dataclass(frozen=True)
class Learned:
    """What came of it; shares of the test's items with their 95 % intervals."""

    job: Job
    seconds: float
    """From asking for the job to its end: queue, loading, training, proofs."""
    items: int
    scores: dict[str, Interval]


async def learn(setup: Setup, scratch: Path, steps: Steps, *, lessons: Sequence[Lesson], limit: int | None) -> Report:
    """Train on each data set with default settings, beside the engine, and score what serves then."""
    steps.expect(1 + 2 * len(lessons))
    steps.begin("starting loramux")
    results: dict[str, Learned] = {}
    async with (
        running(loramux(setup, scratch / "data"), scratch / "log") as server,
        aiohttp.ClientSession(server.url) as session,
        Client(server.url) as client,
    ):
        tuner = Tuner(session, setup.base.name)
        for lesson in lessons:
            steps.begin(f"training on {lesson.folder.name}")
            began = time.monotonic()
            job = await tuner.until_done(await tuner.create(await tuner.upload(lesson.folder / "train.jsonl")))
            seconds = time.monotonic() - began
            steps.begin(f"scoring {lesson.folder.name}")
            scores = await _scored(client, job["fine_tuned_model"], lesson.folder / "test.jsonl", limit)
            intervals = {name: bootstrap_interval(values) for name, values in scores.items()}
            results[lesson.folder.name] = Learned(job, seconds, len(next(iter(scores.values()))), intervals)
    return Report(
        "Fine-tuning with default settings",
        "Each data set was uploaded and trained through the OpenAI fine-tuning API of a server whose engine stayed up, "
        "with no hyperparameters given; then its adapter was asked each test item once, greedily, through the same "
        "server. Of a share the middle is the mean, the ends are those of its 95 % bootstrap interval.",
        [finding for lesson in lessons for finding in _findings(lesson, results[lesson.folder.name])],
        {"limit": limit, **setup.engine, **setup.environment},
        [
            {"data": name, "seconds": found.seconds, "items": found.items, "job": found.job["loramux"]}
            for name, found in results.items()
        ],
        [f"- {name}: {_told(found)}" for name, found in results.items()],
    )


async def _scored(client: Client, model: str, test: Path, limit: int | None) -> dict[str, list[float]]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(messages: list[dict[str, Any]]) -> dict[str, float]:
        async with places:
            reply = await client.chat(model, messages[:-1], max_tokens=MOST_TOKENS)
        if not reply.ok:
            raise ServerFailedError(f"{model}: {reply.error}")
        return score(reply.text, messages[-1]["content"])

    lines = (await asyncio.to_thread(test.read_text)).splitlines()
    items = [json.loads(line)["messages"] for line in lines][:limit]
    scores = await asyncio.gather(*map(one, items))
    return {name: [found[name] for found in scores] for name in scores[0]}


def score(answer: str, wanted: str) -> dict[str, float]:
    """How right an answer is; where a JSON object is wanted, also whether it is one, and whether its name is right."""
    scores = {"exact": float(answer.strip() == wanted.strip())}
    right, found = _object(wanted), _object(answer)
    if right is None:
        return scores
    scores |= {"exact": float(found == right), "valid JSON": float(found is not None)}
    if "name" in right:
        scores["right name"] = float(found is not None and found.get("name") == right["name"])
    return scores


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _findings(lesson: Lesson, found: Learned) -> list[Finding]:
    name, ours = lesson.folder.name, found.job["loramux"]
    shares = [
        Finding(
            f"{name}: {score}",
            Spread(interval.estimate, interval.low, interval.high),
            "share",
            at_least=lesson.goals.get(score),
        )
        for score, interval in found.scores.items()
    ]
    single = {
        "from asking to serving": (found.seconds, "s"),
        "training alone": (ours["seconds"], "s"),
        "speed": (ours["tokens_per_second"], "tokens/s"),
        "trained of the base's parameters": (100 * ours["trained_share"], "%"),
    }
    return shares + [Finding(f"{name}: {what}", Spread(*[value] * 3), unit) for what, (value, unit) in single.items()]


def _told(found: Learned) -> str:
    ours = found.job["loramux"]
    recipe = {key: value for key, value in ours["recipe"].items() if value is not None}
    return (
        f"{ours['examples']:,} examples, {ours['steps']:,} steps, {ours['tokens']:,} tokens, {found.items} test items; "
        f"recipe chosen: `{json.dumps(recipe)}`"
    )
