"""What a trainer tells its parent while it works: one JSON object a line on its standard output."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from loramux_adapters.finetuning.errors import (
    AlreadyTraining,
    InvalidRecipe,
    NoRoomLeft,
    TooLittleMemory,
    TrainingError,
    UnusableBase,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe

_REASONS = {kind.code: kind for kind in (InvalidRecipe, UnusableBase, TooLittleMemory, AlreadyTraining, NoRoomLeft)}


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(_Event):
    """The base and the data are loaded; training begins, or goes on after `resumed_step`."""

    event: Literal["started"] = "started"
    examples: int
    validation_examples: int = 0
    steps: int
    trained_parameters: int
    base_parameters: int
    device: str = "cpu"
    resumed_step: int = 0
    recipe: Recipe | None = None

    @property
    def trained_share(self) -> float:
        """Trained parameters as a share of the base's."""
        return self.trained_parameters / self.base_parameters


class Step(_Event):
    """One optimizer step is done. `tokens` (padding not counted) and `seconds` are those of all runs so far."""

    event: Literal["step"] = "step"
    step: int
    steps: int
    epoch: float = 0.0
    loss: float
    accuracy: float | None = None  # share of the answers' tokens that were the likeliest ones
    learning_rate: float | None = None
    tokens: int
    seconds: float = 0.0
    seconds_left: float


class Validated(_Event):
    """What the adapter makes of the validation file after a step: means over the answers' tokens."""

    event: Literal["validated"] = "validated"
    step: int
    loss: float
    token_accuracy: float | None = None


class Checkpointed(_Event):
    """An adapter that can be served lies in `folder`, which is relative to the output's."""

    event: Literal["checkpointed"] = "checkpointed"
    step: int
    folder: str


class Saved(_Event):
    """Whatever happens now, training goes on after this step."""

    event: Literal["saved"] = "saved"
    step: int


class Paused(_Event):
    """The trainer was told to stop, and saved where it was."""

    event: Literal["paused"] = "paused"
    step: int


class Finished(_Event):
    """The adapter lies in its folder."""

    event: Literal["finished"] = "finished"
    size: int  # bytes of the weights
    seconds: float
    tokens: int = 0


class Failed(_Event):
    """The trainer gave up; the message is for the user, the code one of errors.py."""

    event: Literal["failed"] = "failed"
    message: str
    code: str = TrainingError.code

    def as_error(self) -> TrainingError:
        """What the trainer raised, for this process."""
        return _REASONS.get(self.code, TrainingError)(self.message)


Event = Started | Step | Validated | Checkpointed | Saved | Paused | Finished | Failed
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: str | bytes) -> Event:
    """Parse one line; raises ValueError when it is no event."""
    return _EVENT.validate_json(line)
