"""What happens between the steps: events are told, states saved, adapters exported."""

import math
import time
from typing import TYPE_CHECKING, Any, TextIO

from transformers import TrainerCallback

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.events import Event, Saved, Step, Validated

if TYPE_CHECKING:
    from collections.abc import Callable


class PausedError(Exception):
    """The training was told to stop, and goes on after `step` when it is run again."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes events, one JSON object a line, and says when to validate, save and stop.

    `before_*` is what earlier runs of the same training had done.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_pausing = False
        self.before_tokens, self.before_seconds = 0, 0.0
        self.due: frozenset[int] = frozenset()
        """The steps after which the validation file is looked at and an adapter exported."""
        self.publish: Callable[[int], bool] = lambda _: False
        """Exports an adapter if one is due, makes the state that was just written the newest; says if it was kept."""
        self.save_seconds: float | None = None
        """How old a state may get; None if none is kept."""
        self.saved_step = 0
        self.validates = False
        self.tokens = 0
        self._began = self._saved = time.monotonic()
        self._first = 0

    @property
    def seconds(self) -> float:
        """What was spent in training, over all runs."""
        return self.before_seconds + time.monotonic() - self._began

    def tell(self, event: Event) -> None:
        """Write one event at once: the parent draws its progress from it. Where nobody listens any more, pause."""
        try:
            print(event.model_dump_json(), file=self.stream, flush=True)
        except BrokenPipeError:
            self.is_pausing = True

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Count the time from the first step, not from the loading."""
        self._began = self._saved = time.monotonic()
        self._first, self.tokens = state.global_step, self.before_tokens

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide what this step is followed by."""
        is_due = state.global_step in self.due
        age = time.monotonic() - self._saved
        is_old = self.save_seconds is not None and (age >= self.save_seconds or self.is_pausing)
        control.should_evaluate = is_due and self.validates
        control.should_save = is_due or is_old
        control.should_training_stop = control.should_training_stop or self.is_pausing

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        """Tell of a step; the summary at the end has no loss of its own."""
        if "loss" not in logs:
            return
        done, left = state.global_step - self._first, state.max_steps - state.global_step
        self.tokens = self.before_tokens + int(logs["num_tokens"])
        self.tell(
            Step(
                step=state.global_step,
                steps=state.max_steps,
                epoch=logs.get("epoch", 0.0),
                loss=logs["loss"],
                accuracy=logs.get("mean_token_accuracy"),
                learning_rate=logs.get("learning_rate"),
                tokens=self.tokens,
                seconds=self.seconds,
                seconds_left=(time.monotonic() - self._began) / max(1, done) * left,
            )
        )

    def on_evaluate(self, _args: Any, state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Tell of a pass over the validation file; raises TrainingError if its loss is no number."""
        if not math.isfinite(metrics["eval_loss"]):
            raise TrainingError(
                f"the validation loss is not a number after step {state.global_step}: take a lower learning_rate"
            )
        accuracy = metrics.get("eval_mean_token_accuracy")
        self.tell(Validated(step=state.global_step, loss=metrics["eval_loss"], token_accuracy=accuracy))

    def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Keep what was written."""
        if self.publish(state.global_step):
            self._saved, self.saved_step = time.monotonic(), state.global_step
            self.tell(Saved(step=state.global_step))
