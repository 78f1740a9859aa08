"""Succeeded fine-tuning jobs with an evaluation, without any training."""

from typing import Any

import sqlalchemy as sa

from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.token_moments import TokenCounts, TokenMoments
from loramux_adapters.finetuning.jobs.evaluation_summary import EvaluationSummary
from loramux_adapters.finetuning.jobs.job_source import JobSource
from loramux_adapters.finetuning.jobs.models import JobProgress, NewJob
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import parse_adapter_name
from tests.helpers.adapter_files import lora_tensors, write_adapter
from tests.helpers.stored_files import add_files
from tests.helpers.tiny_server import TinyServer

MOMENTS = TokenMoments.of(
    [TokenCounts(40, 0, 4)] * 30, [TokenCounts(700 + 10 * (number % 2), 0, 4) for number in range(30)]
)
EVALUATION = EvaluationSummary(
    questions=30,
    left_out=0,
    measure="label",
    arms={},
    rival="base with 9 examples in its prompt",
    gain=Interval(0.4, 0.6, 0.75),
    verdict="better",
    is_not_worse=True,
    sentence="“the adapter” is better by 0.60 [+0.40, +0.75].",
    token_moments=MOMENTS,
).model_dump(mode="json")


def evaluated_job(
    database: sa.Engine, adapter: str, at: float, state: JobState = JobState.SUCCEEDED, **changes: Any
) -> str:
    """Store a job of the adapter that ended at `at` with an evaluation; returns its id."""
    registry = JobRegistry(database)
    add_files(database, "file-1", "file-2")
    new = NewJob("tiny", parse_adapter_name(adapter), "file-1", "file-2", None, 1, {}, None, "test")
    job = registry.create(new, at - 2, 100).id
    for step in (JobState.QUEUED, JobState.RUNNING):
        registry.move(job, step, at - 1)
    progress = JobProgress(step=4, steps=4, evaluation=EVALUATION | changes).model_dump()
    registry.update_running(job, at - 1, progress=progress)
    registry.move(job, state, at)
    return job


async def add_version_of_job(tiny: TinyServer, adapter: str, job: str, step: int = 4, seed: int = 0) -> str:
    """Register a version of the adapter as the job's result after `step`; returns its id."""
    folder = write_adapter(tiny.settings.allowed_roots[0] / f"{job}-{step}", None, lora_tensors(seed=seed))
    source = JobSource(folder, job, step)
    return str((await tiny.server.adapter_service.add(parse_adapter_name(adapter), source, actor="test")).id)
