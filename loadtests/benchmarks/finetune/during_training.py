"""What serving loses while a job trains on the same machine, by how much of it the trainer may claim."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import aiohttp
from numpy.random import Generator, default_rng

from benchmarks.bursts import Burst, Traffic, burst, summary
from benchmarks.finetune.jobs_api import Tuner
from benchmarks.overhead.side_by_side import MEASURES
from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import paired_ratio, spread
from loramux_loadtests.client import Client
from loramux_loadtests.loadtest.prompts import random_prompts
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import Setup, loramux, running

PRIORITIES = ("idle", "low", "equal")
STEPS_BEFORE = 2
"""A trainer that resumes loads its model first, which is not yet training."""
ENDS_WITHIN_S = 8.0
"""A trainer that is paused ends its step and saves, which nothing tells the client."""
EPOCHS = 50
"""More than are trained before the job is cancelled."""


@dataclass(frozen=True)
class Pair:
    """The same traffic with a job paused and with it running, and how fast it trained meanwhile."""

    priority: str
    paused: Burst
    training: Burst
    tokens_per_second: float


async def beside(setup: Setup, scratch: Path, steps: Steps, *, data: Path, pairs: int, traffic: Traffic) -> Report:
    """The latency and throughput of the base beside a job, over those without one, for each priority."""
    steps.expect(len(PRIORITIES) * (1 + pairs))
    found = []
    for priority in PRIORITIES:
        steps.begin(f"starting loramux, priority {priority}")
        claimed = replace(setup, environment={**setup.environment, "LORAMUX_TRAINING__PRIORITY": priority})
        found += await _pairs(claimed, priority, scratch, steps, data, pairs, traffic)
    return Report(
        "Serving beside a fine-tuning job",
        f"{traffic.streams} streams of {traffic.tokens} output tokens ask the base, in turn while a job on the same "
        "machine is paused and while it trains. A ratio is with over without, within one pair; "
        "LORAMUX_TRAINING__PRIORITY is the setting, idle the default. A job counts its tokens when a step "
        "ends: 0 means that none ended within a burst.",
        [finding for priority in PRIORITIES for finding in _findings(priority, found)],
        {"pairs": pairs, **asdict(traffic), **setup.engine, **setup.environment},
        [asdict(pair) for pair in found],
    )


async def _pairs(
    setup: Setup, priority: str, scratch: Path, steps: Steps, data: Path, pairs: int, traffic: Traffic
) -> list[Pair]:
    chance = default_rng(0)
    async with (
        running(loramux(setup, scratch / priority), scratch / f"{priority}.log") as server,
        aiohttp.ClientSession(server.url) as session,
        Client(server.url) as client,
    ):
        tuner = Tuner(session, setup.base.name)
        epochs = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": EPOCHS}}}
        job = await tuner.create(await tuner.upload(data), method=epochs)
        await tuner.until_steps(job, STEPS_BEFORE)
        measured = []
        for number in range(pairs):
            steps.begin(f"priority {priority}, pair {number + 1} of {pairs}")
            measured.append(await _pair(tuner, job, client, priority, traffic, chance))
        await tuner.move(job, "cancel")
    return measured


async def _pair(tuner: Tuner, job: str, client: Client, priority: str, traffic: Traffic, chance: Generator) -> Pair:
    """Both with the same prompts, but for the numbers that they begin with."""
    began = (await tuner.job(job))["loramux"]
    training = await _loaded(client, tuner.base, traffic, chance)
    ended = (await tuner.job(job))["loramux"]
    await tuner.move(job, "pause")
    await asyncio.sleep(ENDS_WITHIN_S)
    paused = await _loaded(client, tuner.base, traffic, chance)
    await tuner.move(job, "resume")
    await tuner.until_steps(job, STEPS_BEFORE)
    speed = (ended["tokens"] - began["tokens"]) / max(1e-9, ended["seconds"] - began["seconds"])
    return Pair(priority, paused, training, speed)


async def _loaded(client: Client, model: str, traffic: Traffic, chance: Generator) -> Burst:
    return summary([await burst(client, [model], random_prompts(traffic.streams, chance), traffic.tokens)])


def _findings(priority: str, pairs: Sequence[Pair]) -> list[Finding]:
    of_it: Mapping[str, list[Burst]] = {
        "training": [pair.training for pair in pairs if pair.priority == priority],
        "paused": [pair.paused for pair in pairs if pair.priority == priority],
    }
    findings = []
    for measure in MEASURES:
        with_job, without = ([getattr(each, measure.field) for each in of_it[name]] for name in ("training", "paused"))
        findings += [
            Finding(f"{priority}: {measure.words}, with a job / without", paired_ratio(with_job, without)),
            Finding(f"{priority}: {measure.words}, with a job", spread(with_job), measure.unit),
        ]
    speeds = [pair.tokens_per_second for pair in pairs if pair.priority == priority]
    return [*findings, Finding(f"{priority}: the job meanwhile", spread(speeds), "tokens/s")]
