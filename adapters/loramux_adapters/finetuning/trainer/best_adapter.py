"""Early stopping: keeps the adapter of the lowest validation loss, and says when a training is over.

The passes over the validation file are in transformers' own state, which is saved and resumed with the training.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerState

_LOSS = "eval_loss"
_STATE_FILE = "trainer_state.json"


@dataclass(frozen=True)
class BestAdapter:
    """The best adapter so far, in a folder in `folder`.

    Training is over after `patience` passes in a row whose loss is not below the best one. `write` writes the present
    adapter to a folder.
    """

    folder: Path
    patience: int
    write: Callable[[Path], object]

    def add(self, state: TrainerState, loss: float) -> bool:
        """Add a pass over the validation file, and keep the adapter if it is the best; returns whether to stop."""
        state.log_history.append({"step": state.global_step, _LOSS: loss})
        if self.step(state) == state.global_step:
            self.write(self.path(state.global_step))
        return self.is_over(state)

    def step(self, state: TrainerState) -> int:
        """Return the step of the lowest loss, the first of equal ones."""
        return self._best(state)[0]

    def loss(self, state: TrainerState) -> float:
        """Return the lowest loss."""
        return self._best(state)[1]

    @staticmethod
    def _best(state: TrainerState) -> tuple[int, float]:
        return min(_passes(state), key=lambda found: found[1])

    def is_over(self, state: TrainerState) -> bool:
        """Whether the loss has not fallen for too many passes."""
        passes = _passes(state)
        return bool(passes) and sum(step > self.step(state) for step, _ in passes) >= self.patience

    def path(self, step: int) -> Path:
        """Return the folder of the adapter after a step."""
        return self.folder / f"step-{step}"

    def drop_others(self, state: TrainerState) -> None:
        """Remove worse adapters; called when the state is saved, because an older one could still need them."""
        if _passes(state):
            for path in self.folder.glob("*"):
                if path != self.path(self.step(state)):
                    shutil.rmtree(path)


def read_state(saved: Path) -> TrainerState:
    """Return transformers' state in the folder of a saved one."""
    return TrainerState.load_from_json(str(saved / _STATE_FILE))


def _passes(state: TrainerState) -> list[tuple[int, float]]:
    """Return the step and the loss of each pass over the validation file, oldest first."""
    return [(entry["step"], entry[_LOSS]) for entry in state.log_history if _LOSS in entry]
