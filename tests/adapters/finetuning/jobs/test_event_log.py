"""What the user reads of the trainer's choices: device, precision, how memory is saved, and what ran out; GPU-10."""

from dataclasses import replace
from typing import Any

import pytest

from loramux_adapters.finetuning.events import Started, Warned
from loramux_adapters.finetuning.jobs.event_log import JobEventLog
from loramux_adapters.finetuning.jobs.models import JobEvent
from loramux_adapters.finetuning.jobs.observer import NullJobObserver
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.timings import JobTimings
from loramux_adapters.finetuning.recipes.estimate import GPU_SPEEDS
from tests.helpers.fine_tuning_jobs import job_record


class RecordingRegistry:
    """Keeps the events that are stored."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []

    def update_running(self, _job: str, _at: float, *events: JobEvent, **_: Any) -> None:
        self.events.extend(events)


async def logged(*events: Started | Warned) -> tuple[JobEventLog, list[JobEvent]]:
    registry: Any = RecordingRegistry()
    job = replace(job_record(JobState.RUNNING), timings=JobTimings(machine="cuda:0"))
    log = JobEventLog(registry, job, NullJobObserver(), lambda: 1.0, GPU_SPEEDS, str)
    for event in events:
        await log.record(event)
    return log, registry.events


async def recorded(*events: Started | Warned) -> list[JobEvent]:
    _, found = await logged(*events)
    return found


def started(**changes: Any) -> Started:
    return Started(examples=8, steps=2, trained_parameters=2, base_parameters=200, **changes)


async def test_a_start_names_the_device_the_precision_and_how_memory_is_saved() -> None:
    found = await recorded(
        started(device="cuda:0", precision="float16 (served in bfloat16)", memory="micro-batches: 9 GB are free")
    )
    assert [event.message for event in found] == [
        "Training starts on cuda:0 in float16 (served in bfloat16): 8 examples, 2 steps; 2 trained parameters, 1.00% "
        "of the base's",
        "Memory is saved by micro-batches: 9 GB are free",
    ]


@pytest.mark.parametrize(
    ("devices", "machine"),
    [
        (["cuda:0"], "cuda:0"),
        (["cpu"], "cpu"),  # not the GPU that was planned: later jobs on it would be taken to be as slow
        (["cpu", "cpu"], "cpu"),
        (["cuda:0", "cpu"], ""),
        (["cuda:0", "cpu", "cuda:0"], ""),
    ],
)
async def test_a_job_is_timed_on_the_machine_that_trained_it(devices: list[str], machine: str) -> None:
    log, _ = await logged(*(started(device=device, resumed_step=step) for step, device in enumerate(devices)))
    assert log.timings.machine == machine


async def test_a_training_that_begins_again_is_timed_on_its_last_machine() -> None:
    log, _ = await logged(started(device="cuda:0"), started(device="cpu"))
    assert log.timings.machine == "cpu"


async def test_a_start_of_an_older_trainer_names_the_device() -> None:
    [event] = await recorded(started())
    assert event.message.startswith("Training starts on cpu: 8 examples")


async def test_a_warning_of_the_trainer_is_one_of_the_job() -> None:
    assert await recorded(Warned(message="Training runs on cpu")) == [JobEvent("Training runs on cpu", "warn")]
