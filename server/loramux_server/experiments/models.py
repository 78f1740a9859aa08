"""The values of experiments: what is compared, how quality is measured, and what happened to each request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from loramux_adapters.models import AdapterName

Message = dict[str, JsonValue]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Frozen):
    """A way to answer an adapter's requests: on one version or (None) on the base, with messages put before each."""

    name: Literal["adapter", "baseline", "candidate", "current"]
    version: str | None
    """NAME@DIGEST."""
    prompt: tuple[Message, ...] = ()


class FeedbackQuality(_Frozen):
    """Quality is what users say with `POST /v1/feedback`."""

    type: Literal["feedback"] = "feedback"


class ScorerQuality(_Frozen):
    """Quality is the score of a scorer that needs no expected answer."""

    type: Literal["scorer"] = "scorer"
    scorer: dict[str, JsonValue]


class JudgeQuality(_Frozen):
    """Quality is a grade that a model gives by a rubric."""

    type: Literal["judge"] = "judge"
    model: Annotated[str, Field(min_length=1, max_length=256)]
    rubric: Annotated[str, Field(min_length=1, max_length=8000)]


Quality = Annotated[FeedbackQuality | ScorerQuality | JudgeQuality, Field(discriminator="type")]


class Limits(_Frozen):
    """Limits beyond which a candidate is rolled back; None for no limit."""

    errors: Annotated[float, Field(ge=0, lt=1, description="Largest share of requests that may fail.")] | None = None
    latency: (
        Annotated[float, Field(gt=0, le=1000, description="Largest ratio of mean latencies to the current version.")]
        | None
    ) = None
    quality: Annotated[float, Field(ge=0, le=1, description="How much lower the mean score may be.")] | None = None


class Promotion(_Frozen):
    """When the challenger is promoted by itself, and when it is rolled back."""

    when: Literal["better", "not-worse"]
    limits: Limits = Limits()


class ExperimentConfig(_Frozen):
    """What an experiment compares; it never changes.

    A random `share` of the requests to `adapter` is answered by the variant `sampled`, or in a shadow experiment by it
    as well; the others by the other variant.
    """

    adapter: AdapterName
    challenger: Variant
    reference: Variant
    sampled: Literal["challenger", "reference"]
    share: Annotated[float, Field(gt=0, le=1)]
    quality: Quality
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    shadow: bool = False
    promotion: Promotion | None = None

    @property
    def sampled_variant(self) -> Variant:
        """The variant that gets `share`."""
        return self.challenger if self.sampled == "challenger" else self.reference

    @property
    def default_variant(self) -> Variant:
        """The variant that answers all other requests, and those that the sampled one fails on."""
        return self.reference if self.sampled == "challenger" else self.challenger

    @property
    def challenger_share(self) -> float:
        """The planned share of the challenger's units."""
        return self.share if self.sampled == "challenger" else 1 - self.share


class State(StrEnum):
    """The state of an experiment; only RUNNING has transitions."""

    RUNNING = "running"
    STOPPED = "stopped"
    """By a person."""
    PROMOTED = "promoted"
    """The candidate won, and the adapter's name points at it."""
    ROLLED_BACK = "rolled_back"
    """The candidate lost or exceeded a limit; all requests are answered as before."""
    INTERRUPTED = "interrupted"
    """A variant can't be served any more, or the adapter's name was changed."""
    COMPLETED = "completed"
    """It reached the largest number of requests that are recorded."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment; times are Unix seconds. `result` is the report when it ended."""

    id: str
    config: ExperimentConfig
    state: State
    actor: str
    created_at: float
    ended_at: float | None = None
    reason: str | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    """How many requests were left out, by the reason."""
    result: Mapping[str, Any] | None = None


class Outcome(StrEnum):
    """What a variant made of a request."""

    ANSWERED = "answered"
    FAILED = "failed"
    """The variant failed; it scores 0, even if the client then got the other variant's answer."""
    CANCELLED = "cancelled"
    """The client disconnected; it is not scored."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One request of an experiment; costs in nano-dollars, None where no price was set.

    `unit` is the same for all requests of a user. In a shadow experiment, both variants have a row of the same request.
    """

    at: float
    unit: str
    variant: str
    request_id: str
    key_id: str
    outcome: Outcome
    score: float | None
    duration: float
    input_tokens: int
    output_tokens: int
    price_list_cost: int | None
    gpu_hour_cost: int | None
    corrupted: bool = False
