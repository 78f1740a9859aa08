"""What the user reads of the trainer's choices: device, precision, how memory is saved, and what ran out; GPU-10."""

from typing import Any

from loramux_adapters.finetuning.events import Started, Warned
from loramux_adapters.finetuning.jobs.event_log import JobEventLog
from loramux_adapters.finetuning.jobs.models import JobEvent
from loramux_adapters.finetuning.jobs.observer import NullJobObserver
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.recipes.estimate import GPU_SPEEDS
from tests.helpers.fine_tuning_jobs import job_record


class RecordingRegistry:
    """Keeps the events that are stored."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []

    def update_running(self, _job: str, _at: float, *events: JobEvent, **_: Any) -> None:
        self.events.extend(events)


async def recorded(*events: Started | Warned) -> list[JobEvent]:
    registry: Any = RecordingRegistry()
    log = JobEventLog(registry, job_record(JobState.RUNNING), NullJobObserver(), lambda: 1.0, GPU_SPEEDS)
    for event in events:
        await log.record(event)
    found: list[JobEvent] = registry.events
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


async def test_a_start_of_an_older_trainer_names_the_device() -> None:
    [event] = await recorded(started())
    assert event.message.startswith("Training starts on cpu: 8 examples")


async def test_a_warning_of_the_trainer_is_one_of_the_job() -> None:
    assert await recorded(Warned(message="Training runs on cpu")) == [JobEvent("Training runs on cpu", "warn")]
