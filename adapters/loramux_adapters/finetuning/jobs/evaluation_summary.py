"""The result of comparing a job's adapter with the base: scores, verdict and a sentence, as stored and shown."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning
from loramux_adapters.evaluation.items import Chat
from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.token_moments import TokenMoments
from loramux_adapters.evaluation.verdict import MARGIN, Verdict

ADAPTER, START = "adapter", "adapter it went on from"
"""The arms besides the base's: the result of the job, and the version that its training went on from."""
_OldVerdict = Literal["no difference shown", "too few questions"]
"""Verdicts of jobs that ended with release 0.2 or earlier."""


def _read_interval(value: Any) -> Any:
    return (value["low"], value["mean"], value["high"]) if isinstance(value, Mapping) else value


def _write_interval(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "mean": interval.estimate, "high": interval.high}


MeanInterval = Annotated[Interval, BeforeValidator(_read_interval), PlainSerializer(_write_interval)]
"""The interval of a mean, in JSON an object with `low`, `mean` and `high`."""


class ScoredCompletion(NamedTuple):
    """One answer of one arm to one question; `scores` by the names of the measures, `seconds` until its end."""

    arm: str
    question: int
    expected: str
    answer: str
    scores: Mapping[str, float]
    input_tokens: int
    output_tokens: int
    seconds: float
    finish_reason: str | None = None
    cached_tokens: int | None = None


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)


class SampleAnswer(_FrozenModel):
    """The messages that an arm really sent for one question, its answer, and the expected one.

    Of a long prompt, messages in the middle are left out, `left_out` of them, and long texts are cut: the job's
    comparison.json has everything.
    """

    question: int
    messages: Chat
    left_out: int = 0
    answer: str
    expected: str


class ArmScores(_FrozenModel):
    """One arm: means over all questions, of its scores and of a request's tokens and seconds."""

    scores: dict[str, MeanInterval]
    input_tokens: float
    output_tokens: float
    seconds: float
    cached_tokens: float | None = None
    """Input tokens that were in the engine's cache; None if unknown."""
    sample: SampleAnswer | None = None


class Candidate(_FrozenModel):
    """A prompt for the base that was tried on `items` training examples; no score if there were too few of them."""

    name: str
    score: float | None = None
    items: int = 0
    input_tokens: float | None = None
    is_chosen: bool


class StartComparison(_FrozenModel):
    """The adapter against the version that its training went on from; `gain` is its score minus that one's."""

    gain: MeanInterval
    verdict: Verdict
    sentence: str


class EvaluationSummary(_FrozenModel):
    """The outcome: `rival` is the baseline, the base with its best prompt; `gain` is the adapter's score minus its.

    `left_out` counts the validation examples that the training file has too: a gain on those would prove nothing.
    """

    questions: int
    left_out: int
    measure: str
    arms: dict[str, ArmScores]
    rival: str
    gain: MeanInterval
    verdict: Verdict | _OldVerdict
    sentence: str
    """About adapter and baseline; if the training went on from a version, then about that one too."""
    reason: str = ""
    """Why the verdict is what it is."""
    confidence: float = 0.95
    """Of `gain`'s interval."""
    margin: float = MARGIN
    """Differences within +-margin do not matter."""
    is_not_worse: bool = False
    """Whether the adapter is shown to be worse by less than the margin, if at all."""
    items_needed: int | None = None
    """Questions that would decide at the present estimate and spread; None if decided, or if unknown."""
    constant: float = 0.0
    """The score of the best single answer to all questions, which any variant must beat."""
    constant_answer: str | None = None
    """None if no single answer scores above 0."""
    start: StartComparison | None = None
    """None if the training began with a new adapter."""
    candidates: list[Candidate] = []
    """The prompts from which the baseline was chosen, on training examples; the smallest first."""
    warnings: list[EvaluationWarning] = []
    token_moments: TokenMoments | None = None
    """Of adapter and baseline: enough for the saving at any prices."""
