"""Direct preference optimization on generated pairs, after supervised training on the preferred answers."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.finetune.jobs_api import JobDocument, JobsApi
from benchmarks.finetune.preference_data import write_preferences, write_preferred
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import Spread
from loramux_loadtests.servers import ServerSetup, loramux_spec, running

CHANCE = 0.5
_ANSWERS = ("preferred", "non_preferred", "reference", "adapter")


async def measure_preferences(setup: ServerSetup, scratch: Path, progress: StepProgress) -> BenchmarkReport:
    """Train with default settings while the engine runs; the job by DPO itself evaluates the held-out pairs."""
    progress.set_total(3)
    progress.begin("starting loramux")
    training, held_out = await asyncio.to_thread(write_preferences, scratch)
    async with (
        running(loramux_spec(setup, scratch / "data"), scratch / "log") as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        jobs_api = JobsApi(session, setup.base.name)
        progress.begin("training on the preferred answers")
        preferred = await jobs_api.upload(await asyncio.to_thread(write_preferred, scratch, training))
        start = await jobs_api.wait_until_succeeded(await jobs_api.create(preferred))
        progress.begin("going on by DPO, and evaluating")
        files = [await jobs_api.upload(path) for path in (training, held_out)]
        job_id = await jobs_api.create(
            files[0], model=start["fine_tuned_model"], validation_file=files[1], method={"type": "dpo"}
        )
        job = await jobs_api.wait_until_succeeded(job_id)
    found = job["loramux"]["preference"]
    return BenchmarkReport(
        "Direct preference optimization with default settings",
        "A generated data set (loadtests/benchmarks/finetune/preference_pairs.yaml, seeded) of a shop's answers was "
        "uploaded and trained through the OpenAI fine-tuning API: first the preferred answers by the method "
        "`supervised`, then, from that adapter on, the pairs by `dpo`. Of two answers with the same facts and of like "
        "length, the courteous one is preferred to the curt one. The held-out pairs have questions, answers, names, "
        "items and days that the training data do not have. A pair counts if DPO makes its preferred answer more "
        "likely, relative to the supervised adapter (the reference), than the other one; without an effect that is "
        "half of them. Columns: mean, and the ends of its 95 % interval.",
        _metrics(found),
        {**setup.engine, **setup.environment},
        [{"job": job["loramux"]}],
        [_sentence(job), "", "Answers to held-out prompts, with greedy decoding:", "", *_answers(found)],
    )


def _metrics(found: JobDocument) -> list[Metric]:
    accuracy = found["accuracy"]
    low = [accuracy["low"]] * 3
    return [
        Metric("preference accuracy", Spread(accuracy["mean"], accuracy["low"], accuracy["high"]), "share"),
        Metric("its lower end", Spread(*low), "share", at_least=CHANCE),
        Metric("reward margin", Spread(*[found["reward_margin"]] * 3), "nats times beta"),
    ]


def _sentence(job: JobDocument) -> str:
    ours = job["loramux"]
    sentence = ours["preference"]["sentence"]
    return f"{ours['examples']:,} pairs, {ours['steps']:,} steps, {ours['tokens']:,} tokens. {sentence}."


def _answers(found: Any) -> list[str]:
    lines = []
    for sample in found["samples"]:
        lines += [f"- {sample['messages'][-1]['content']}"]
        lines += [f"  - {name.replace('_', '-')}: {' '.join(sample[name].split())}" for name in _ANSWERS]
    return lines
