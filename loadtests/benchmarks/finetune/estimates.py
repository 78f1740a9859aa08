"""Errors of a job's estimated duration, before its start and while it runs: on the first job, and after one."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from benchmarks.finetune.jobs_api import JobsApi
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import Spread
from loramux_loadtests.servers import ServerFailedError, ServerSetup, loramux_spec, running

POLL_INTERVAL_S = 0.5
MAX_ERROR = 0.25
"""Goal for the error at half time, once a job has been trained."""


@dataclass(frozen=True)
class Sample:
    """The time left that a job showed at a moment, in seconds after its creation; None if it was unknown."""

    at: float
    left: float | None
    phase: str | None


@dataclass(frozen=True)
class EstimatedJob:
    """One job: what was estimated before, and what it showed while it ran."""

    name: str
    estimated: float
    seconds: float
    samples: Sequence[Sample]

    def error_at(self, share: float) -> float:
        """Return the relative error of the time left when this share of the time had passed; 0.1: a tenth too long.

        Raises:
            ValueError: the time left was unknown.
        """
        sample = min(self.samples, key=lambda one: abs(one.at - share * self.seconds))
        if sample.left is None:
            raise ValueError(f"{self.name}: the time left was unknown after {sample.at:.0f} s")
        truth = self.seconds - sample.at
        return sample.left / truth - 1


async def measure_estimates(
    setup: ServerSetup, scratch: Path, progress: StepProgress, *, data: Path, examples: Sequence[int], held_out: int
) -> BenchmarkReport:
    """Run a job on each number of examples of `data`, and compare its estimates with what happened."""
    lines = (await asyncio.to_thread(data.read_bytes)).splitlines(keepends=True)
    jobs: list[EstimatedJob] = []
    async with (
        running(loramux_spec(setup, scratch / "data"), scratch / "log") as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        jobs_api = JobsApi(session, setup.base.name)
        validation = scratch / "validation.jsonl"
        await asyncio.to_thread(validation.write_bytes, b"".join(lines[-held_out:]))
        for count in examples:
            progress.begin(f"a job on {count} examples")
            training = scratch / f"train-{count}.jsonl"
            await asyncio.to_thread(training.write_bytes, b"".join(lines[:count]))
            files = {
                "training_file": await jobs_api.upload(training),
                "validation_file": await jobs_api.upload(validation),
            }
            jobs.append(await _run_job(jobs_api, f"job {len(jobs) + 1}, {count} examples", files))
    return BenchmarkReport(
        "Estimated duration of fine-tuning jobs",
        "Jobs of one epoch with a validation file on a server without other requests. An error is the estimated "
        "time relative to what it took, minus 1: 0.1 is a tenth too long. The first job rests on assumed speeds, the "
        "others on those of the jobs before.",
        [metric for number, job in enumerate(jobs) for metric in _metrics(job, has_learned=number > 0)],
        {"examples": list(examples), "held_out": held_out, **setup.engine, **setup.environment},
        [asdict(job) for job in jobs],
    )


async def _run_job(jobs_api: JobsApi, name: str, files: dict[str, str]) -> EstimatedJob:
    epochs = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
    plan = await jobs_api.estimate(**files, method=epochs)
    began, job = time.monotonic(), await jobs_api.create(**files, method=epochs)
    samples: list[Sample] = []
    while (found := await jobs_api.job(job))["status"] != "succeeded":
        if found["finished_at"]:
            raise ServerFailedError(f"the job ended as {found['status']}: {found['error']}")
        details = found["loramux"]
        samples.append(Sample(time.monotonic() - began, details["seconds_left"], details["phase"]))
        await asyncio.sleep(POLL_INTERVAL_S)
    return EstimatedJob(name, plan["estimate"]["total_seconds"], time.monotonic() - began, samples)


def _metrics(job: EstimatedJob, *, has_learned: bool) -> list[Metric]:
    def once(what: str, value: float, unit: str = "ratio", at_most: float | None = None) -> Metric:
        return Metric(f"{job.name}: {what}", Spread(value, value, value), unit, at_most=at_most)

    goal = MAX_ERROR if has_learned else None
    return [
        once("duration", job.seconds, "s"),
        once("estimated before", job.estimated, "s"),
        once("error of the estimate before", job.estimated / job.seconds - 1),
        once("size of the error after 25 % of the time", abs(job.error_at(0.25))),
        once("size of the error at half time", abs(job.error_at(0.5)), at_most=goal),
        once("size of the error after 75 % of the time", abs(job.error_at(0.75))),
    ]
