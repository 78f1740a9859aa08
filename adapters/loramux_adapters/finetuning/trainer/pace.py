"""The pace of a training run, and the time that is left at this pace."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

_MIN_STEPS = 5
_MAX_SECONDS = 600.0
"""Older steps say little about the present pace: other work on the machine may have begun or ended."""


@dataclass(frozen=True)
class PlannedSteps:
    """What a training run consists of; `previous_tokens` were trained on by earlier runs of it."""

    steps: int
    tokens: int
    """Tokens of all steps, padding not counted."""
    checkpoint_steps: frozenset[int]
    """The steps after which the validation file is evaluated and an adapter is exported."""
    more_validation_steps: frozenset[int] = frozenset()
    """Other steps after which the validation file is evaluated: for early stopping."""
    validation_tokens: int = 0
    forward_share: float = 0.5
    """The time of a forward pass as a share of a step's time, per token: before the first validation pass."""

    @property
    def validation_steps(self) -> frozenset[int]:
        """All steps after which the validation file is evaluated."""
        return self.checkpoint_steps | self.more_validation_steps


class _Step(NamedTuple):
    seconds: float
    tokens: int


@dataclass
class TrainingPace:
    """Measures the parts of a training run, all times in seconds."""

    planned: PlannedSteps
    _steps: deque[_Step] = field(default_factory=deque)
    """The last half of the steps of this run, at least five but not the first: the first ones are often slow."""
    _step_count: int = 0
    _validation_seconds: float | None = None
    _save_seconds: float = 0.0

    def add_step(self, seconds: float, tokens: int) -> None:
        """Add a step that trained on `tokens`."""
        self._steps.append(_Step(seconds, tokens))
        self._step_count += 1
        while self._has_too_old_a_step():
            self._steps.popleft()

    def add_validation(self, seconds: float) -> None:
        """Add a pass over the validation file."""
        self._validation_seconds = seconds

    def add_save(self, seconds: float) -> None:
        """Add the export of an adapter, or the saving of a state."""
        self._save_seconds = seconds

    def seconds_left(self, step: int, tokens: int, *, save_interval: float | None = None) -> float | None:
        """Return the time from the end of `step` to the end of the training; None before a step was measured.

        `tokens` were trained on so far, in all runs of this training. `save_interval` is the time between two saved
        states; None if none are saved.
        """
        measured_tokens = sum(one.tokens for one in self._steps)
        if not measured_tokens:
            return None
        per_token = sum(one.seconds for one in self._steps) / measured_tokens
        steps = per_token * self._tokens_left(step, tokens)
        checkpoints = sum(due >= step for due in self.planned.checkpoint_steps)
        passes = sum(due >= step for due in self.planned.validation_steps)
        saves = checkpoints + (steps / save_interval if save_interval else 0.0)
        return steps + passes * self._validation(per_token) + saves * self._save_seconds

    def _tokens_left(self, step: int, tokens: int) -> float:
        """Return the tokens of the steps that are left; by their number if the total turns out to be wrong."""
        steps_left = self.planned.steps - step
        left = self.planned.tokens - tokens
        if steps_left <= 0:
            return 0.0
        return left if left > 0 else steps_left * tokens / max(1, step)

    def _validation(self, per_token: float) -> float:
        if self._validation_seconds is not None:
            return self._validation_seconds
        return self.planned.validation_tokens * per_token * self.planned.forward_share

    def _has_too_old_a_step(self) -> bool:
        count = len(self._steps)
        if count > max(1, min(_MIN_STEPS, self._step_count - 1), self._step_count // 2):
            return True
        return count > _MIN_STEPS and sum(one.seconds for one in self._steps) > _MAX_SECONDS
