"""The words of fine-tuning jobs as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import AdapterName


class Progress(BaseModel):
    """How far a job's training is; `seconds` were spent in training so far, over all its runs.

    `loss` is of the last step, `validation_loss` and `validation_accuracy` (of tokens, 0..1) of the last pass over the
    validation file. `trial` is the comparison at the end, see trial.py.
    """

    model_config = ConfigDict(frozen=True)

    step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    examples: int = 0
    trained_parameters: int = 0
    base_parameters: int = 0
    device: str | None = None
    trial: dict[str, Any] | None = None

    @property
    def share(self) -> float | None:
        """How much is done, 0..1; None before it is known."""
        return self.step / self.steps if self.steps else None


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is made of when it is asked for; see tables.jobs."""

    base: str
    name: AdapterName
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    wanted: Mapping[str, Any]
    metadata: Mapping[str, str] | None
    created_by: str


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it stands; times are Unix seconds."""

    number: int
    id: str
    created_at: float
    created_by: str
    state: JobState
    base: str
    name: AdapterName
    suffix: str | None
    training_file: str
    validation_file: str | None
    seed: int
    wanted: Mapping[str, Any]
    recipe: Mapping[str, Any] | None
    metadata: Mapping[str, str] | None
    started_at: float | None
    finished_at: float | None
    attempts: int
    progress: Progress
    result_files: Sequence[str]
    error: Mapping[str, Any] | None


Level = Literal["info", "warn", "error"]


class Note(NamedTuple):
    """Something that happened in a job: a message, or with `metrics` what was measured at a step."""

    message: str
    level: Level = "info"
    metrics: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A note as it was entered."""

    id: str
    at: float
    level: Level
    type: Literal["message", "metrics"]
    message: str
    data: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A version that a job made on its way, NAME@DIGEST, and what was measured then."""

    id: str
    job: str
    at: float
    step: int
    version: str
    metrics: Mapping[str, Any]


class Page(NamedTuple):
    """A part of a list, and whether more follows."""

    items: Sequence[Any]
    has_more: bool
