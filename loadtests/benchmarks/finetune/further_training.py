"""Going on from an adapter: what it keeps of what it knew, with and without old examples among the new ones."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp

from benchmarks.finetune.finetune_quality import score_adapter
from benchmarks.finetune.jobs_api import JobDocument, JobsApi
from benchmarks.finetune.new_intents import write_lines, write_new_intents
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.intervals import mean_interval
from loramux_adapters.evaluation.statistics import Interval, Spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.servers import ServerSetup, loramux_spec, running

REPLAYED = 300
"""Old examples that are mixed into the 100 new ones."""
MIN_KEPT = 0.9


@dataclass(frozen=True)
class _Known:
    """The shares of old and of new test items that an adapter answers exactly."""

    old: Interval
    new: Interval


async def measure_further_training(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, data: Path
) -> BenchmarkReport:
    """Train on `data`, then go on with five new intents: alone, and with old examples among them."""
    progress.set_total(4)
    progress.begin("starting loramux")
    new, new_test = await asyncio.to_thread(write_new_intents, scratch)
    mixed = await asyncio.to_thread(_mix, scratch, new, data / "train.jsonl")
    known: dict[str, _Known] = {}
    async with (
        running(loramux_spec(setup, scratch / "data"), scratch / "log") as server,
        aiohttp.ClientSession(server.url) as session,
        ChatClient(server.url) as client,
    ):
        jobs_api = JobsApi(session, setup.base.name)

        async def train(name: str, training: Path, model: str) -> JobDocument:
            progress.begin(name)
            job_id = await jobs_api.create(await jobs_api.upload(training), model=model)
            job = await jobs_api.wait_until_succeeded(job_id)
            tests = data / "test.jsonl", new_test
            scores = [await score_adapter(client, job["fine_tuned_model"], test, None) for test in tests]
            known[name] = _Known(*(mean_interval(found["exact"]) for found in scores))
            return job

        first = await train("before", data / "train.jsonl", setup.base.name)
        jobs = [
            await train(name, training, first["fine_tuned_model"])
            for name, training in (("new alone", new), ("new and old", mixed))
        ]
    return BenchmarkReport(
        "Going on from an adapter",
        f"An adapter was trained on {data.name} with default settings. Two jobs then went on from it "
        f"(`model`: its name) to learn five new intents from 100 generated examples "
        f"(loadtests/benchmarks/finetune/new_intents.py, seeded): once with these alone, and once with {REPLAYED} of "
        "the old examples among them. Shares of test items that are answered exactly, with greedy decoding. The "
        "sentences of the new test items are not in the training data. Columns: mean, and ends of its 95 % interval.",
        _metrics(known),
        {"replayed": REPLAYED, **setup.engine, **setup.environment},
        [{"job": job["loramux"]} for job in (first, *jobs)],
        [f"- {_sentence(job)}" for job in (first, *jobs)],
    )


def _mix(folder: Path, new: Path, old: Path) -> Path:
    """Write a file of the new examples and of some old ones, in a random order."""
    rng, path = Random(1), folder / "new-and-old.jsonl"  # noqa: S311 - reproducible data, not a secret
    replayed = rng.sample(old.read_text(encoding="utf-8").splitlines(), REPLAYED)
    write_lines(path, rng, [*new.read_text(encoding="utf-8").splitlines(), *replayed])
    return path


def _metrics(known: Mapping[str, _Known]) -> list[Metric]:
    before = known["before"].old.estimate
    metrics = []
    for name, found in known.items():
        goal = MIN_KEPT if name == "new and old" else None
        kept = [value / before for value in (found.old.estimate, found.old.low, found.old.high)]
        metrics += [
            Metric(f"{name}: old intents", _spread(found.old), "share"),
            Metric(f"{name}: kept of them", Spread(*kept), "share of before", at_least=goal),
            Metric(f"{name}: new intents", _spread(found.new), "share"),
        ]
    return metrics


def _spread(interval: Interval) -> Spread:
    return Spread(interval.estimate, interval.low, interval.high)


def _sentence(job: JobDocument) -> str:
    ours = job["loramux"]
    start = ours["from_version"] or "the base"
    return f"from {start}: {ours['examples']:,} examples, {ours['steps']:,} steps, {ours['tokens']:,} tokens"
