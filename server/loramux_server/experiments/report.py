"""The report of an experiment: quality, latency, tokens and cost of both variants, as stored and as shown."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from loramux_adapters.evaluation.sequential import (
    ScoreCounts,
    difference_interval,
    difference_of_pairs,
    mean_interval,
    paired_counts,
)
from loramux_adapters.evaluation.sequential_ratio import ratio_interval
from loramux_adapters.evaluation.statistics import Interval
from loramux_server.experiments.models import ExperimentConfig, Observation, Outcome
from loramux_server.experiments.report_warnings import warnings_of
from loramux_server.experiments.sample import VariantSample, paired_rows, scored_pairs, split_by_variant
from loramux_server.experiments.verdict import Quality, SequentialVerdict, judge, sentence


class Estimate(BaseModel):
    """An estimate between the ends of its 95 % interval, which holds however often it is looked at."""

    low: float
    estimate: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> "Estimate":
        """Return the schema of an interval."""
        return cls(low=interval.low, estimate=interval.estimate, high=interval.high)


class VariantReport(BaseModel):
    """One variant so far."""

    name: str
    units: Annotated[int, Field(description="Users; a request without a user counts as one.")]
    scored_units: int
    requests: int
    failed: Annotated[int, Field(description="Requests that the variant failed on; each scores 0.")]
    cancelled: Annotated[int, Field(description="Requests whose clients disconnected; not scored.")]
    score: Annotated[Estimate | None, Field(description="Mean score of the units, 0..1.")]


Measured = Literal["duration", "input_tokens", "output_tokens", "price_list_cost", "gpu_hour_cost"]


class Ratio(BaseModel):
    """The challenger's mean over the reference's, per unit; both were asked at random during the same time."""

    measure: Measured
    challenger: Annotated[float, Field(description="Mean: seconds, tokens or US dollars per request.")]
    reference: float
    ratio: Annotated[Estimate | None, Field(description="Asymptotic; null from too few or equal units.")]


class ExperimentReport(BaseModel):
    """What an experiment shows at this moment."""

    verdict: SequentialVerdict
    sentence: str
    difference: Annotated[Estimate, Field(description="Challenger's mean score minus the reference's.")]
    units_needed: Annotated[int | None, Field(description="Scored units that would decide, at the present scores.")]
    pairs: Annotated[int | None, Field(description="Scored pairs of a shadow experiment.")]
    challenger: VariantReport
    reference: VariantReport
    ratios: Sequence[Ratio]
    warnings: Sequence[str]


_MEASURES: dict[Measured, Callable[[Observation], float | None]] = {
    "duration": lambda row: row.duration,
    "input_tokens": lambda row: row.input_tokens,
    "output_tokens": lambda row: row.output_tokens,
    "price_list_cost": lambda row: None if row.price_list_cost is None else row.price_list_cost / 1e9,
    "gpu_hour_cost": lambda row: None if row.gpu_hour_cost is None else row.gpu_hour_cost / 1e9,
}
_UNCOMPARABLE_IN_SHADOW = ("duration", "gpu_hour_cost")
"""A shadow request runs only while the engine is idle, so it is quicker than a live one."""


def build_report(config: ExperimentConfig, rows: Sequence[Observation]) -> ExperimentReport:
    """Compute the report from all requests so far."""
    challenger, reference = split_by_variant(paired_rows(rows) if config.shadow else rows, config.challenger.name)
    pairs = scored_pairs(challenger, reference) if config.shadow else None
    quality = _quality(config, challenger, reference, pairs)
    return ExperimentReport(
        verdict=quality.verdict,
        sentence=sentence(quality, config.challenger.name, config.reference.name, config.margin),
        difference=Estimate.of(quality.difference),
        units_needed=quality.units_needed,
        pairs=None if pairs is None else len(pairs),
        challenger=_variant_report(config.challenger.name, challenger),
        reference=_variant_report(config.reference.name, reference),
        ratios=_ratios(config, challenger, reference),
        warnings=warnings_of(config, challenger, reference),
    )


def _quality(
    config: ExperimentConfig,
    challenger: VariantSample,
    reference: VariantSample,
    pairs: Sequence[tuple[float, float]] | None,
) -> Quality:
    if pairs is not None:
        halves = paired_counts([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
        return judge(halves.units, lambda k: difference_of_pairs(halves.scaled(k)), config.margin)
    ours, theirs = ScoreCounts.of(challenger.scores.values()), ScoreCounts.of(reference.scores.values())

    def interval_at(k: float) -> Interval:
        return difference_interval(ours.scaled(k), theirs.scaled(k), challenger_share=config.challenger_share)

    return judge(ours.units + theirs.units, interval_at, config.margin)


def _variant_report(name: str, sample: VariantSample) -> VariantReport:
    scores = ScoreCounts.of(sample.scores.values())
    return VariantReport(
        name=name,
        units=len(sample.units),
        scored_units=scores.units,
        requests=len(sample.requests),
        failed=sample.count(Outcome.FAILED),
        cancelled=sample.count(Outcome.CANCELLED),
        score=Estimate.of(mean_interval(scores)) if scores.units else None,
    )


def _ratios(config: ExperimentConfig, challenger: VariantSample, reference: VariantSample) -> list[Ratio]:
    found = []
    for name, value in _MEASURES.items():
        ours, theirs = challenger.unit_means(value), reference.unit_means(value)
        if not (ours and theirs) or (config.shadow and name in _UNCOMPARABLE_IN_SHADOW):
            continue
        ratio = ratio_interval(ours, theirs)
        means = (sum(side) / len(side) for side in (ours, theirs))
        challenger_mean, reference_mean = means
        found.append(
            Ratio(
                measure=name,
                challenger=challenger_mean,
                reference=reference_mean,
                ratio=None if ratio is None else Estimate.of(ratio),
            )
        )
    return found
