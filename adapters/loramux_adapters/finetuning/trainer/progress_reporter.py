"""The trainer's callbacks between steps: write events, save states, export checkpoints, pause."""

import math
import time
from typing import TYPE_CHECKING, Any, TextIO

from transformers import TrainerCallback

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.events import Saved, Step, TrainerEvent, Validated

if TYPE_CHECKING:
    from collections.abc import Callable


class PausedError(Exception):
    """The training run was asked to stop; it resumes after `step` when it is run again."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class ProgressReporter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes events, one JSON object per line, and decides when to validate, save and stop.

    `previous_tokens` and `previous_seconds` are those of earlier runs of the same training.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.pause_requested = False
        self.previous_tokens, self.previous_seconds = 0, 0.0
        self.checkpoint_steps: frozenset[int] = frozenset()
        """The steps after which the validation file is evaluated and an adapter is exported."""
        self.publish: Callable[[int], bool] = lambda _: False
        """Exports an adapter if one is due, and publishes the state just written; returns whether it was kept."""
        self.save_seconds: float | None = None
        """Maximum age of the saved state; None if none is kept."""
        self.saved_step = 0
        self.has_validation = False
        self.tokens = 0
        self._started_at = self._saved_at = time.monotonic()
        self._first_step = 0

    @property
    def seconds(self) -> float:
        """Time spent in training, over all runs."""
        return self.previous_seconds + time.monotonic() - self._started_at

    def report(self, event: TrainerEvent) -> None:
        """Write one event and flush it; pause if the parent no longer reads events."""
        try:
            print(event.model_dump_json(), file=self.stream, flush=True)
        except BrokenPipeError:
            self.pause_requested = True

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the clock: loading does not count."""
        self._started_at = self._saved_at = time.monotonic()
        self._first_step, self.tokens = state.global_step, self.previous_tokens

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide whether to validate, save or stop after this step."""
        is_checkpoint = state.global_step in self.checkpoint_steps
        age = time.monotonic() - self._saved_at
        is_state_due = self.save_seconds is not None and (age >= self.save_seconds or self.pause_requested)
        control.should_evaluate = is_checkpoint and self.has_validation
        control.should_save = is_checkpoint or is_state_due
        control.should_training_stop = control.should_training_stop or self.pause_requested

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        """Report a step; the summary that transformers logs at the end has no `loss`."""
        if "loss" not in logs:
            return
        done, left = state.global_step - self._first_step, state.max_steps - state.global_step
        self.tokens = self.previous_tokens + int(logs["num_tokens"])
        self.report(
            Step(
                step=state.global_step,
                steps=state.max_steps,
                epoch=logs.get("epoch", 0.0),
                loss=logs["loss"],
                accuracy=logs.get("mean_token_accuracy"),
                learning_rate=logs.get("learning_rate"),
                tokens=self.tokens,
                seconds=self.seconds,
                seconds_left=(time.monotonic() - self._started_at) / max(1, done) * left,
            )
        )

    def on_evaluate(self, _args: Any, state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Report a pass over the validation file.

        Raises:
            TrainingError: the validation loss is NaN or infinite.
        """
        if not math.isfinite(metrics["eval_loss"]):
            raise TrainingError(
                f"the validation loss is NaN or infinite after step {state.global_step}: use a lower learning_rate"
            )
        accuracy = metrics.get("eval_mean_token_accuracy")
        self.report(Validated(step=state.global_step, loss=metrics["eval_loss"], token_accuracy=accuracy))

    def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Publish the state that transformers has written."""
        if self.publish(state.global_step):
            self._saved_at, self.saved_step = time.monotonic(), state.global_step
            self.report(Saved(step=state.global_step))
