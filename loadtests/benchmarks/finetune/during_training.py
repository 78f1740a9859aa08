"""Serving during training on the same machine, for each training priority."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import aiohttp
from numpy.random import Generator, default_rng

from benchmarks.bursts import BurstResult, BurstTraffic, run_burst, summarize_bursts
from benchmarks.finetune.jobs_api import JobsApi
from benchmarks.overhead.side_by_side import BURST_METRICS
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import paired_ratio, spread
from loramux_loadtests.client import ChatClient
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.servers import ServerSetup, loramux_spec, running

PRIORITIES = ("idle", "low", "equal")
STEPS_BEFORE = 2
"""Steps to wait for: a resumed trainer first loads its model."""
PAUSE_SETTLE_S = 8.0
"""A paused trainer finishes its step and saves, which the API does not report."""
EPOCHS = 50
"""More than the job trains before it is cancelled."""


@dataclass(frozen=True)
class TrainingPair:
    """The same traffic with the job paused and running, and the job's speed."""

    priority: str
    paused: BurstResult
    training: BurstResult
    tokens_per_second: float


async def measure_during_training(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, data: Path, pairs: int, traffic: BurstTraffic
) -> BenchmarkReport:
    """Measure latency and throughput of the base during training relative to a paused job, for each priority."""
    progress.set_total(len(PRIORITIES) * (1 + pairs))
    found = []
    for priority in PRIORITIES:
        progress.begin(f"starting loramux, priority {priority}")
        prioritized = replace(setup, environment={**setup.environment, "LORAMUX_TRAINING__PRIORITY": priority})
        found += await _measure_priority(prioritized, priority, scratch, progress, data, pairs, traffic)
    return BenchmarkReport(
        "Serving during fine-tuning",
        f"{traffic.streams} streams of {traffic.tokens} output tokens on the base, in turn while a job on "
        "the same machine "
        "is paused and while it trains. A ratio is with / without training, within one pair. The priority is "
        "LORAMUX_TRAINING__PRIORITY, by default idle. A job counts its tokens at the end of each step: 0 means that no "
        "step ended during a burst.",
        [metric for priority in PRIORITIES for metric in _metrics(priority, found)],
        {"pairs": pairs, **asdict(traffic), **setup.engine, **setup.environment},
        [asdict(pair) for pair in found],
    )


async def _measure_priority(
    setup: ServerSetup,
    priority: str,
    scratch: Path,
    progress: StepProgress,
    data: Path,
    pairs: int,
    traffic: BurstTraffic,
) -> list[TrainingPair]:
    rng = default_rng(0)
    async with (
        running(loramux_spec(setup, scratch / priority), scratch / f"{priority}.log") as server,
        aiohttp.ClientSession(server.url) as session,
        ChatClient(server.url) as client,
    ):
        jobs_api = JobsApi(session, setup.base.name)
        epochs = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": EPOCHS}}}
        job = await jobs_api.create(await jobs_api.upload(data), method=epochs)
        await jobs_api.wait_for_steps(job, STEPS_BEFORE)
        measured = []
        for number in range(pairs):
            progress.begin(f"priority {priority}, pair {number + 1} of {pairs}")
            measured.append(await _measure_pair(jobs_api, job, client, priority, traffic, rng))
        await jobs_api.post_action(job, "cancel")
    return measured


async def _measure_pair(
    jobs_api: JobsApi, job: str, client: ChatClient, priority: str, traffic: BurstTraffic, rng: Generator
) -> TrainingPair:
    """Measure the traffic during training and with the job paused."""
    began = (await jobs_api.job(job))["loramux"]
    training = await _run_traffic(client, jobs_api.base, traffic, rng)
    ended = (await jobs_api.job(job))["loramux"]
    await jobs_api.post_action(job, "pause")
    await asyncio.sleep(PAUSE_SETTLE_S)
    paused = await _run_traffic(client, jobs_api.base, traffic, rng)
    await jobs_api.post_action(job, "resume")
    await jobs_api.wait_for_steps(job, STEPS_BEFORE)
    speed = (ended["tokens"] - began["tokens"]) / max(1e-9, ended["seconds"] - began["seconds"])
    return TrainingPair(priority, paused, training, speed)


async def _run_traffic(client: ChatClient, model: str, traffic: BurstTraffic, rng: Generator) -> BurstResult:
    return summarize_bursts([await run_burst(client, [model], random_prompts(traffic.streams, rng), traffic.tokens)])


def _metrics(priority: str, pairs: Sequence[TrainingPair]) -> list[Metric]:
    bursts: Mapping[str, list[BurstResult]] = {
        "training": [pair.training for pair in pairs if pair.priority == priority],
        "paused": [pair.paused for pair in pairs if pair.priority == priority],
    }
    metrics = []
    for measure in BURST_METRICS:
        with_job, without = ([getattr(each, measure.field) for each in bursts[name]] for name in ("training", "paused"))
        metrics += [
            Metric(f"{priority}: {measure.label}, with a job / without", paired_ratio(with_job, without)),
            Metric(f"{priority}: {measure.label}, with a job", spread(with_job), measure.unit),
        ]
    speeds = [pair.tokens_per_second for pair in pairs if pair.priority == priority]
    return [*metrics, Metric(f"{priority}: training speed", spread(speeds), "tokens/s")]
