"""Records of fine-tuning jobs, their progress, events and checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, computed_field

from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.timings import JobTimings
from loramux_adapters.models import DEFAULT_PROJECT, AdapterName


class JobProgress(BaseModel):
    """The progress of a job; `tokens` and `seconds` were spent in training so far, over all its runs.

    `seconds_left` is the trainer's estimate, of the training alone, made at `estimated_at` (Unix seconds).

    `loss` is of the last step, `validation_loss` and `validation_accuracy` (of tokens, 0..1) of the last pass over the
    validation file. `evaluation` is the comparison with the base at the end, see evaluation/verdict.py.
    """

    model_config = ConfigDict(frozen=True)

    step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    estimated_at: float = 0.0
    loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    examples: int = 0
    trained_parameters: int = 0
    base_parameters: int = 0
    device: str | None = None
    reward_accuracy: float | None = None
    """Of DPO, in the last step or pass over the validation file: share of the pairs, 0..1."""
    best_step: int | None = None
    """With early stopping: the step whose adapter is the result."""
    preference: dict[str, Any] | None = None
    """Of DPO, at the end: see preference_evaluation.py."""
    evaluation: dict[str, Any] | None = Field(default=None, validation_alias=AliasChoices("evaluation", "trial"))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def trial(self) -> dict[str, Any] | None:
        """Deprecated name of `evaluation`, for clients and stored jobs of earlier releases."""
        return self.evaluation

    @property
    def share(self) -> float | None:
        """Share of the steps that are done, 0..1; None before their number is known."""
        return self.step / self.steps if self.steps else None


@dataclass(frozen=True, slots=True)
class NewJob:
    """The columns of a job that its creation sets; see tables.jobs."""

    base: str
    name: AdapterName
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    wanted: Mapping[str, Any]
    metadata: Mapping[str, str] | None
    created_by: str
    from_version: str | None = None
    """NAME@DIGEST of the adapter that the training goes on from; None for a new adapter on the base."""
    integrations: Sequence[Mapping[str, Any]] | None = None
    """Where the metrics are sent, in OpenAI's form."""
    alias: str | None = None
    """Another name for the adapter, from the job's success on."""
    idempotency_key: str | None = None
    """No two jobs have the same one."""
    project: str = DEFAULT_PROJECT


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A row of tables.jobs; times are Unix seconds."""

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
    progress: JobProgress
    timings: JobTimings
    result_files: Sequence[str]
    error: Mapping[str, Any] | None
    from_version: str | None = None
    integrations: Sequence[Mapping[str, Any]] | None = None
    alias: str | None = None
    idempotency_key: str | None = None
    project: str = DEFAULT_PROJECT


Level = Literal["info", "warn", "error"]


class JobEvent(NamedTuple):
    """An event to add to a job: a message, or with `metrics` the measurements of a step."""

    message: str
    level: Level = "info"
    metrics: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A stored event; `at` is in Unix seconds."""

    id: str
    at: float
    level: Level
    type: Literal["message", "metrics"]
    message: str
    data: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A version, NAME@DIGEST, that was exported during training, and its metrics."""

    id: str
    job: str
    at: float
    step: int
    version: str
    metrics: Mapping[str, Any]


class Page(NamedTuple):
    """A page of a list; `has_more` says whether another one follows."""

    items: Sequence[Any]
    has_more: bool
