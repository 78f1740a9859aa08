"""Request and response bodies of experiments and feedback."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loramux_adapters.models import VersionId, parse_adapter_name
from loramux_server.experiments.models import Experiment, Promotion, Quality, State, Variant
from loramux_server.experiments.proposal import Proposal
from loramux_server.experiments.report import ExperimentReport


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PromptMessage(_Body):
    """A message that is put before each request."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class Baseline(_Body):
    """What the adapter is compared with."""

    model: Annotated[
        str | None, Field(max_length=256, description="NAME@DIGEST of the same adapter; null for the base.")
    ] = None
    prompt: Annotated[
        list[PromptMessage],
        Field(max_length=500, description="Put before each request; its system messages replace the request's own."),
    ] = []


class StartExperiment(_Body):
    """An experiment with a `baseline`, or with a `candidate` that may be promoted by itself."""

    adapter: Annotated[str, Field(max_length=256)]
    baseline: Baseline | None = None
    candidate: Annotated[
        str | None, Field(max_length=256, description="NAME@DIGEST, compared with what the name points at.")
    ] = None
    share: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False, description="Share of the users who get baseline or candidate.")
    ] = 0.05
    shadow: Annotated[
        bool, Field(description="Ask the baseline in the background, after the client got the adapter's answer.")
    ] = False
    quality: Quality
    margin: Annotated[
        float, Field(gt=0, lt=1, allow_inf_nan=False, description="Smaller differences of mean scores do not matter.")
    ] = 0.05
    promotion: Promotion | None = None

    @model_validator(mode="after")
    def _check_variants(self) -> Self:
        if (self.baseline is None) == (self.candidate is None):
            raise ValueError("one of baseline and candidate is needed")
        return self

    def proposal(self) -> Proposal:
        """Return the proposal.

        Raises:
            InvalidAdapterName, InvalidVersion: a name or version is invalid.
        """
        baseline = self.baseline or Baseline()
        return Proposal(
            adapter=parse_adapter_name(self.adapter),
            share=self.share,
            quality=self.quality,
            margin=self.margin,
            shadow=self.shadow,
            baseline_version=VersionId.parse(baseline.model) if baseline.model else None,
            prompt=[message.model_dump(exclude_none=True) for message in baseline.prompt],
            candidate=VersionId.parse(self.candidate) if self.candidate else None,
            promotion=self.promotion,
        )


class ExperimentSummary(BaseModel):
    """An experiment without its report."""

    id: str
    adapter: str
    state: State
    challenger: Variant
    reference: Variant
    sampled: Annotated[str, Field(description="The variant that gets `share` of the users.")]
    share: float
    shadow: bool
    quality: Quality
    margin: float
    promotion: Promotion | None
    actor: str
    created_at: Annotated[float, Field(description="Unix seconds.")]
    ended_at: float | None
    reason: Annotated[str | None, Field(description="Why it ended.")]
    left_out: Annotated[Mapping[str, int], Field(description="Requests that were not recorded or scored, by reason.")]

    @classmethod
    def of(cls, experiment: Experiment) -> "ExperimentSummary":
        """Return the schema of an experiment."""
        return cls(**_summary(experiment))


class ExperimentDetails(ExperimentSummary):
    """An experiment with what it shows at this moment, or showed when it ended."""

    report: ExperimentReport

    @classmethod
    def with_report(cls, experiment: Experiment, report: ExperimentReport) -> "ExperimentDetails":
        """Return the schema of an experiment and its report."""
        return cls(**_summary(experiment), report=report)


class Experiments(BaseModel):
    """Experiments, newest first."""

    data: Sequence[ExperimentDetails]


class Feedback(_Body):
    """Feedback on a request: a score or a label."""

    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="The response's `x-request-id`.")]
    score: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    label: Annotated[Literal["good", "bad"] | None, Field(description="`good` scores 1, `bad` 0.")] = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.score is None) == (self.label is None):
            raise ValueError("one of score and label is needed")
        return self

    @property
    def value(self) -> float:
        """The score."""
        return float(self.label == "good") if self.score is None else self.score


class AcceptedFeedback(BaseModel):
    """Feedback as it was stored."""

    request_id: str
    score: float
    experiment: Annotated[str | None, Field(description="The experiment that the request was part of.")]


class RouteFeedback(BaseModel):
    """Feedback on the requests of one route: what those said who said something, which is not an experiment."""

    route: Literal["base", "adapter"]
    adapter: str | None
    version: str | None
    requests: Annotated[int, Field(description="Requests with feedback.")]
    mean: float


class FeedbackByRoute(BaseModel):
    """Feedback by route since a moment, in Unix seconds."""

    since: float
    data: Sequence[RouteFeedback]


def _summary(experiment: Experiment) -> dict[str, object]:
    config = experiment.config
    return {
        **{name: getattr(experiment, name) for name in ("id", "state", "actor", "created_at", "ended_at", "reason")},
        **{name: getattr(config, name) for name in ("adapter", "challenger", "reference", "share", "shadow")},
        **{name: getattr(config, name) for name in ("quality", "margin", "promotion")},
        "sampled": config.sampled_variant.name,
        "left_out": experiment.counters,
    }
