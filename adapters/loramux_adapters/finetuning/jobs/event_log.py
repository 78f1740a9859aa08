"""What a job's trainer says, entered in the registry: at once where it matters, else about once a second."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from loramux_adapters.finetuning.events import Event, Finished, Saved, Started, Step, Validated
from loramux_adapters.finetuning.jobs.models import JobRecord, Note, Progress
from loramux_adapters.finetuning.jobs.observer import Observer
from loramux_adapters.finetuning.jobs.registry import JobRegistry

_FLUSH_SECONDS = 1.0


class Diary:
    """Collects notes and the progress of one job; raises WrongJobState once the job does not run any more."""

    def __init__(self, registry: JobRegistry, job: JobRecord, observer: Observer, now: Callable[[], float]) -> None:
        self._registry, self._job, self._observer, self._now = registry, job.id, observer, now
        self.progress = job.progress
        self._notes: list[Note] = []
        self._flushed = time.monotonic()

    async def write(self, event: Event) -> None:
        """Take in what the trainer said."""
        self._take(event)
        if not isinstance(event, Step) or time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            await self.flush(saved=isinstance(event, Saved))

    async def flush(self, *, saved: bool = False) -> None:
        """Enter what was collected; what was saved is progress, so that a later crash is the first one again."""
        self._observer.progressed(self.progress)
        notes, self._notes, self._flushed = self._notes, [], time.monotonic()
        values: dict[str, Any] = {"progress": self.progress.model_dump()} | ({"attempts": 0} if saved else {})
        await asyncio.to_thread(self._registry.enter, self._job, self._now(), *notes, **values)

    def _take(self, event: Event) -> None:
        match event:
            case Started():
                self._advance(**event.model_dump(include={"examples", "steps", "device"}), **_parameters(event))
                self._notes.append(Note(_beginning(event)))
            case Step():
                self._advance(
                    **event.model_dump(include={"step", "steps", "tokens", "seconds", "seconds_left", "loss"})
                )
                metrics = {"step": event.step, "train_loss": event.loss, "train_mean_token_accuracy": event.accuracy}
                words = f"Step {event.step}/{event.steps}: training loss={event.loss:.2f}"
                self._notes.append(Note(words, metrics=metrics))
            case Validated():
                self._advance(validation_loss=event.loss, validation_accuracy=event.token_accuracy)
                metrics = {
                    "step": event.step,
                    "valid_loss": event.loss,
                    "valid_mean_token_accuracy": event.token_accuracy,
                }
                self._notes.append(Note(f"Step {event.step}: validation loss={event.loss:.2f}", metrics=metrics))
            case Finished():
                self._advance(seconds_left=0.0)

    def _advance(self, **values: Any) -> None:
        self.progress = self.progress.model_copy(update=values)


def _parameters(started: Started) -> dict[str, int]:
    return {"trained_parameters": started.trained_parameters, "base_parameters": started.base_parameters}


def _beginning(started: Started) -> str:
    share = f"{started.trained_parameters:,} parameters are trained, {started.trained_share:.2%} of the base's"
    if started.resumed_step:
        return f"Training goes on after step {started.resumed_step} of {started.steps} on {started.device}"
    return f"Training begins on {started.device}: {started.examples:,} examples, {started.steps:,} steps; {share}"


def checkpoint_metrics(step: int, progress: Progress) -> dict[str, float | None]:
    """Return what was measured when a checkpoint was made, in OpenAI's words."""
    return {
        "step": step,
        "train_loss": progress.loss,
        "full_valid_loss": progress.validation_loss,
        "full_valid_mean_token_accuracy": progress.validation_accuracy,
    }
