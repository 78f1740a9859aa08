"""The events that a trainer process writes to its standard output: one JSON object per line."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from loramux_adapters.finetuning.errors import (
    AlreadyTraining,
    ChatTemplateError,
    DiskFull,
    InsufficientMemory,
    InvalidRecipe,
    TrainingError,
    UnusableBase,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe

_ERRORS = {
    error.code: error
    for error in (ChatTemplateError, InvalidRecipe, UnusableBase, InsufficientMemory, AlreadyTraining, DiskFull)
}


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(_Event):
    """The base and the data are loaded; training starts, or resumes after `resumed_step`."""

    event: Literal["started"] = "started"
    examples: int
    validation_examples: int = 0
    steps: int
    trained_parameters: int
    base_parameters: int
    device: str = "cpu"
    precision: str = ""
    """The dtype of the base, which weights it has, and how it is served, if that differs."""
    memory: str = ""
    """How memory is saved, and why; empty if it is not."""
    gradient_checkpointing: bool = False
    resumed_step: int = 0
    recipe: Recipe | None = None

    @property
    def trained_share(self) -> float:
        """Trained parameters as a share of the base's parameters."""
        return self.trained_parameters / self.base_parameters


class Warned(_Event):
    """Something that the user should know: a device that was not used, or memory that ran out."""

    event: Literal["warned"] = "warned"
    message: str


class Step(_Event):
    """One optimizer step is done. `tokens` (without padding) and `seconds` count all runs of this training so far."""

    event: Literal["step"] = "step"
    step: int
    steps: int
    epoch: float = 0.0
    loss: float
    accuracy: float | None = None  # share of the answers' tokens that were predicted correctly
    reward_accuracy: float | None = None  # of DPO: share of the pairs whose preferred answer has the higher reward
    reward_margin: float | None = None  # of DPO: by how much, on average
    learning_rate: float | None = None
    tokens: int
    seconds: float = 0.0
    seconds_left: float | None
    """Of the training, without publishing and evaluation; None before it is known."""


class Validated(_Event):
    """Result of a pass over the validation file after a step: means over the answers' tokens, or DPO's pairs."""

    event: Literal["validated"] = "validated"
    step: int
    loss: float
    token_accuracy: float | None = None
    reward_accuracy: float | None = None
    reward_margin: float | None = None


class Checkpointed(_Event):
    """An adapter that can be served was exported to `folder`, relative to the output folder."""

    event: Literal["checkpointed"] = "checkpointed"
    step: int
    folder: str


class Saved(_Event):
    """The state after this step was saved: training resumes from it even after a kill."""

    event: Literal["saved"] = "saved"
    step: int


class Paused(_Event):
    """The trainer was asked to stop, and saved its state."""

    event: Literal["paused"] = "paused"
    step: int


class Finished(_Event):
    """The adapter was written to the output folder."""

    event: Literal["finished"] = "finished"
    size: int  # bytes of the weights
    seconds: float
    tokens: int = 0
    best_step: int | None = None
    """With early stopping: the step with the lowest validation loss, whose adapter it is."""
    best_loss: float | None = None


class Failed(_Event):
    """Training failed; the message is for the user, the code is one of errors.py."""

    event: Literal["failed"] = "failed"
    message: str
    code: str = TrainingError.code

    def as_error(self) -> TrainingError:
        """Return the error that the trainer raised."""
        return _ERRORS.get(self.code, TrainingError)(self.message)


TrainerEvent = Started | Warned | Step | Validated | Checkpointed | Saved | Paused | Finished | Failed
_EVENT: TypeAdapter[TrainerEvent] = TypeAdapter(Annotated[TrainerEvent, Field(discriminator="event")])


def parse_event(line: str | bytes) -> TrainerEvent:
    """Parse one line of the trainer's output.

    Raises:
        ValueError: it is not an event.
    """
    return _EVENT.validate_json(line)
