"""What a trainer tells its parent while it works: one JSON object a line on its standard output."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(_Event):
    """The base and the data are loaded; training begins."""

    event: Literal["started"] = "started"
    examples: int
    steps: int
    trained_parameters: int
    base_parameters: int

    @property
    def trained_share(self) -> float:
        """Trained parameters as a share of the base's."""
        return self.trained_parameters / self.base_parameters


class Step(_Event):
    """One optimizer step is done."""

    event: Literal["step"] = "step"
    step: int
    steps: int
    loss: float
    tokens: int  # seen so far, padding not counted
    seconds_left: float


class Finished(_Event):
    """The adapter lies in its folder."""

    event: Literal["finished"] = "finished"
    size: int  # bytes of the weights
    seconds: float


class Failed(_Event):
    """The trainer gave up; the message is for the user."""

    event: Literal["failed"] = "failed"
    message: str


Event = Started | Step | Finished | Failed
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: str | bytes) -> Event:
    """Parse one line; raises ValueError when it is no event."""
    return _EVENT.validate_json(line)
