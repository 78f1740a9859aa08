"""The trainer's callbacks between steps: write events, save states, export checkpoints, pause."""

import math
import time
from collections.abc import Callable
from typing import Any, TextIO

from transformers import TrainerCallback

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.events import Saved, Step, TrainerEvent, Validated
from loramux_adapters.finetuning.trainer.pace import PlannedSteps, TrainingPace


class PausedError(Exception):
    """The training run was asked to stop; it resumes after `step` when it is run again."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class ProgressReporter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes events, one JSON object per line, and decides when to validate, save and stop.

    `previous_tokens` and `previous_seconds` are those of earlier runs of the same training.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self._clock = clock
        self.pause_requested = False
        self.previous_tokens, self.previous_seconds = 0, 0.0
        self.planned = PlannedSteps(steps=0, tokens=0, checkpoint_steps=frozenset())
        self.publish: Callable[[int], bool] = lambda _: False
        """Exports an adapter if one is due, and publishes the state just written; returns whether it was kept."""
        self.save_seconds: float | None = None
        """Maximum age of the saved state; None if none is kept."""
        self.saved_step = 0
        self.has_validation = False
        self.stop_after_validation: Callable[[Any, float], bool] = lambda _state, _loss: False
        """Whether training is over, by transformers' state and the loss of a pass over the validation file."""
        self.stopped_early = False
        self.tokens = 0
        self._started_at = self._saved_at = self._measured_at = clock()
        self._step_seconds = 0.0
        self._pace = TrainingPace(self.planned)

    @property
    def seconds(self) -> float:
        """Time spent in training, over all runs."""
        return self.previous_seconds + self._clock() - self._started_at

    def report(self, event: TrainerEvent) -> None:
        """Write one event and flush it; pause if the parent no longer reads events."""
        try:
            print(event.model_dump_json(), file=self.stream, flush=True)
        except BrokenPipeError:
            self.pause_requested = True

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Start the clock: loading does not count."""
        self._started_at = self._saved_at = self._measured_at = self._clock()
        self.tokens, self._pace = self.previous_tokens, TrainingPace(self.planned)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide whether to validate, save or stop after this step."""
        self._step_seconds = self._lap()
        is_validated = self.has_validation and state.global_step in self.planned.validation_steps
        is_checkpoint = state.global_step in self.planned.checkpoint_steps
        age = self._clock() - self._saved_at
        is_state_due = self.save_seconds is not None and (age >= self.save_seconds or self.pause_requested)
        control.should_evaluate = is_validated
        control.should_save = is_checkpoint or is_validated or is_state_due
        control.should_training_stop = control.should_training_stop or self.pause_requested

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        """Report a step; the summary that transformers logs at the end has no `loss`."""
        if "loss" not in logs:
            return
        tokens_before, self.tokens = self.tokens, self.previous_tokens + int(logs["num_tokens"])
        self._pace.add_step(self._step_seconds, self.tokens - tokens_before)
        self.report(
            Step(
                step=state.global_step,
                steps=state.max_steps,
                epoch=logs.get("epoch", 0.0),
                loss=logs["loss"],
                accuracy=logs.get("mean_token_accuracy"),
                reward_accuracy=logs.get("reward_accuracy"),
                reward_margin=logs.get("reward_margin"),
                learning_rate=logs.get("learning_rate"),
                tokens=self.tokens,
                seconds=self.seconds,
                seconds_left=self._pace.seconds_left(state.global_step, self.tokens, save_interval=self.save_seconds),
            )
        )

    def on_evaluate(self, _args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Report a pass over the validation file, and stop if training is over.

        Raises:
            TrainingError: the validation loss is NaN or infinite.
        """
        if not math.isfinite(metrics["eval_loss"]):
            raise TrainingError(
                f"the validation loss is NaN or infinite after step {state.global_step}: use a lower learning_rate"
            )
        self._pace.add_validation(self._lap())
        self.report(
            Validated(
                step=state.global_step,
                loss=metrics["eval_loss"],
                token_accuracy=metrics.get("eval_mean_token_accuracy"),
                reward_accuracy=metrics.get("eval_reward_accuracy"),
                reward_margin=metrics.get("eval_reward_margin"),
            )
        )
        self.stopped_early = self.stop_after_validation(state, metrics["eval_loss"])
        control.should_training_stop = control.should_training_stop or self.stopped_early

    def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Publish the state that transformers has written."""
        if self.publish(state.global_step):
            self._saved_at, self.saved_step = self._clock(), state.global_step
            self.report(Saved(step=state.global_step))
        self._pace.add_save(self._lap())

    def _lap(self) -> float:
        """Return the seconds since the last call: what has ended in between took as long."""
        before, self._measured_at = self._measured_at, self._clock()
        return self._measured_at - before
