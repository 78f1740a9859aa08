"""Writes the trainer's events to the registry: important ones immediately, steps about once a second."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from loramux_adapters.finetuning.events import (
    Checkpointed,
    Finished,
    Saved,
    Started,
    Step,
    TrainerEvent,
    Validated,
    Warned,
)
from loramux_adapters.finetuning.jobs.forecast import seconds_left
from loramux_adapters.finetuning.jobs.models import JobEvent, JobProgress, JobRecord
from loramux_adapters.finetuning.jobs.observer import JobObserver
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.timings import JobTimings
from loramux_adapters.finetuning.recipes.estimate import Phase, PhaseSpeeds


@dataclass
class JobEventLog:
    """Collects the events and the progress of one job, and writes them at least every `flush_seconds`."""

    registry: JobRegistry
    job: JobRecord
    observer: JobObserver
    now: Callable[[], float]
    speeds: PhaseSpeeds
    """Of earlier jobs, for the time left."""
    machine_of: Callable[[str], str]
    """Returns the machine of a device, as in the job's timings."""
    flush_seconds: float = 1.0
    clock: Callable[[], float] = time.monotonic
    progress: JobProgress = field(init=False)
    timings: JobTimings = field(init=False)
    _events: list[JobEvent] = field(default_factory=list)
    _flushed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.progress = self.job.progress
        self.timings = self.job.timings
        self._flushed_at = self.clock()

    async def enter(self, phase: Phase) -> None:
        """Record that a phase of the job begins, unless it has begun already.

        Raises:
            WrongJobState: the job no longer runs.
            StoreError: the registry can't be written.
        """
        if self._begin(phase):
            await self._flush({})

    async def note(self, message: str) -> None:
        """Add an event that is not the trainer's.

        Raises:
            WrongJobState: the job no longer runs.
            StoreError: the registry can't be written.
        """
        self._events.append(JobEvent(message))
        await self._flush({})

    def seconds_left(self) -> float | None:
        """Return the estimated time until the end of the job."""
        job = replace(self.job, progress=self.progress, timings=self.timings)
        return seconds_left(job, self.speeds, self.now())

    async def record(self, event: TrainerEvent) -> None:
        """Add an event of the trainer.

        Raises:
            WrongJobState: the job no longer runs.
            StoreError: the registry can't be written.
        """
        self._add(event)
        if not isinstance(event, Step) or self.clock() - self._flushed_at >= self.flush_seconds:
            # A saved state is progress: the next crash counts as the first one.
            await self._flush({"attempts": 0} if isinstance(event, Saved) else {})

    async def _flush(self, values: dict[str, Any]) -> None:
        self.observer.progressed(self.progress.model_copy(update={"seconds_left": self.seconds_left()}))
        events, self._events, self._flushed_at = self._events, [], self.clock()
        documents = {"progress": self.progress.model_dump(), "timings": self.timings.model_dump(mode="json")}
        values = documents | values
        await asyncio.to_thread(self.registry.update_running, self.job.id, self.now(), *events, **values)

    def _add(self, event: TrainerEvent) -> None:
        match event:
            case Started():
                names = {"examples", "steps", "device", "trained_parameters", "base_parameters"}
                self._update(**event.model_dump(include=names))
                self._begin("training")
                self.timings = self.timings.as_trained(
                    self.machine_of(event.device),
                    recomputes=event.gradient_checkpointing,
                    resumes=event.resumed_step > 0,
                )
                self._events.append(JobEvent(_start_message(event)))
                if event.memory:
                    self._events.append(JobEvent(f"Memory is saved by {event.memory}"))
            case Warned():
                self._events.append(JobEvent(event.message, "warn"))
            case Step():
                names = {"step", "steps", "tokens", "seconds", "seconds_left", "loss"}
                self._update(**event.model_dump(include=names), estimated_at=self.now())
                metrics = {"step": event.step, "train_loss": event.loss, "train_mean_token_accuracy": event.accuracy}
                message = f"Step {event.step}/{event.steps}: training loss={event.loss:.2f}"
                self._add_metrics(message, metrics, "train", event)
            case Validated():
                self._update(validation_loss=event.loss, validation_accuracy=event.token_accuracy)
                accuracy = event.token_accuracy
                metrics = {"step": event.step, "valid_loss": event.loss, "valid_mean_token_accuracy": accuracy}
                message = f"Step {event.step}: validation loss={event.loss:.2f}"
                self._add_metrics(message, metrics, "valid", event)
            case Checkpointed() if event.step == self.progress.steps:
                self._begin("publishing")  # with this checkpoint, which is the result
            case Finished():
                self._update(seconds_left=0.0, best_step=event.best_step)
                self._events += _best_events(event)

    def _add_metrics(self, message: str, metrics: dict[str, Any], prefix: str, event: Step | Validated) -> None:
        """Add an event with measurements; those of DPO are rewards instead of the accuracy of tokens."""
        if event.reward_accuracy is not None:
            del metrics[f"{prefix}_mean_token_accuracy"]
            metrics[f"{prefix}_reward_accuracy"] = event.reward_accuracy
            metrics[f"{prefix}_reward_margin"] = event.reward_margin
            message += f", reward accuracy={event.reward_accuracy:.2f}"
            self._update(reward_accuracy=event.reward_accuracy)
        self._events.append(JobEvent(message, metrics=metrics))

    def _begin(self, phase: Phase) -> bool:
        """Begin a phase; `loading` is where each run begins, so it may follow itself. Returns whether it is new."""
        current = self.timings.current
        if current and current.phase == phase != "loading":
            return False
        self.timings = self.timings.entered(phase, self.now())
        return True

    def _update(self, **values: Any) -> None:
        self.progress = self.progress.model_copy(update=values)


def _best_events(finished: Finished) -> list[JobEvent]:
    if finished.best_step is None:
        return []
    best = f"the adapter of step {finished.best_step}, which had the lowest validation loss"
    return [JobEvent(f"The result is {best}, {finished.best_loss:.2f}")]


def _start_message(started: Started) -> str:
    if started.resumed_step:
        return f"Training resumes after step {started.resumed_step} of {started.steps} on {started.device}"
    precision = f" in {started.precision}" if started.precision else ""
    return (
        f"Training starts on {started.device}{precision}: {started.examples:,} examples, {started.steps:,} steps; "
        f"{started.trained_parameters:,} trained parameters, {started.trained_share:.2%} of the base's"
    )


def checkpoint_metrics(step: int, measured: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the metrics of a checkpoint, named as in OpenAI's API, from those of a job's events, oldest first.

    The validation is the last one until that step; what was not measured is None.
    """
    before = [metrics for metrics in measured if metrics["step"] <= step]
    train_loss = [metrics["train_loss"] for metrics in before if "train_loss" in metrics and metrics["step"] == step]
    validation: Mapping[str, Any] = next((metrics for metrics in reversed(before) if "valid_loss" in metrics), {})
    return {
        "step": step,
        "train_loss": train_loss[-1] if train_loss else None,
        "full_valid_loss": validation.get("valid_loss"),
        "full_valid_mean_token_accuracy": validation.get("valid_mean_token_accuracy"),
    }
