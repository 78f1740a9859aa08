"""Writes the trainer's events to the registry: important ones immediately, steps about once a second."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.finetuning.events import Finished, Saved, Started, Step, TrainerEvent, Validated
from loramux_adapters.finetuning.jobs.models import JobEvent, JobProgress, JobRecord
from loramux_adapters.finetuning.jobs.observer import JobObserver
from loramux_adapters.finetuning.jobs.registry import JobRegistry


@dataclass
class JobEventLog:
    """Collects the events and the progress of one job, and writes them at least every `flush_seconds`."""

    registry: JobRegistry
    job: JobRecord
    observer: JobObserver
    now: Callable[[], float]
    flush_seconds: float = 1.0
    progress: JobProgress = field(init=False)
    _events: list[JobEvent] = field(default_factory=list)
    _flushed_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.progress = self.job.progress

    async def record(self, event: TrainerEvent) -> None:
        """Add an event of the trainer.

        Raises:
            WrongJobState: the job no longer runs.
            StoreError: the registry can't be written.
        """
        self._add(event)
        if not isinstance(event, Step) or time.monotonic() - self._flushed_at >= self.flush_seconds:
            # A saved state is progress: the next crash counts as the first one.
            await self._flush({"attempts": 0} if isinstance(event, Saved) else {})

    async def _flush(self, values: dict[str, Any]) -> None:
        self.observer.progressed(self.progress)
        events, self._events, self._flushed_at = self._events, [], time.monotonic()
        values = {"progress": self.progress.model_dump()} | values
        await asyncio.to_thread(self.registry.update_running, self.job.id, self.now(), *events, **values)

    def _add(self, event: TrainerEvent) -> None:
        match event:
            case Started():
                names = {"examples", "steps", "device", "trained_parameters", "base_parameters"}
                self._update(**event.model_dump(include=names))
                self._events.append(JobEvent(_start_message(event)))
            case Step():
                names = {"step", "steps", "tokens", "seconds", "seconds_left", "loss"}
                self._update(**event.model_dump(include=names))
                metrics = {"step": event.step, "train_loss": event.loss, "train_mean_token_accuracy": event.accuracy}
                message = f"Step {event.step}/{event.steps}: training loss={event.loss:.2f}"
                self._events.append(JobEvent(message, metrics=metrics))
            case Validated():
                self._update(validation_loss=event.loss, validation_accuracy=event.token_accuracy)
                accuracy = event.token_accuracy
                metrics = {"step": event.step, "valid_loss": event.loss, "valid_mean_token_accuracy": accuracy}
                message = f"Step {event.step}: validation loss={event.loss:.2f}"
                self._events.append(JobEvent(message, metrics=metrics))
            case Finished():
                self._update(seconds_left=0.0)

    def _update(self, **values: Any) -> None:
        self.progress = self.progress.model_copy(update=values)


def _start_message(started: Started) -> str:
    if started.resumed_step:
        return f"Training resumes after step {started.resumed_step} of {started.steps} on {started.device}"
    return (
        f"Training starts on {started.device}: {started.examples:,} examples, {started.steps:,} steps; "
        f"{started.trained_parameters:,} trained parameters, {started.trained_share:.2%} of the base's"
    )


def checkpoint_metrics(step: int, progress: JobProgress) -> dict[str, float | None]:
    """Return the metrics of a checkpoint, named as in OpenAI's API."""
    return {
        "step": step,
        "train_loss": progress.loss,
        "full_valid_loss": progress.validation_loss,
        "full_valid_mean_token_accuracy": progress.validation_accuracy,
    }
