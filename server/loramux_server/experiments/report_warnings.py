"""Looks for reasons not to believe an experiment: each is a sentence that is shown next to its verdict."""

from collections.abc import Iterator

from loramux_adapters.evaluation.sequential import ScoreCounts, difference_interval, mean_interval
from loramux_server.experiments.models import ExperimentConfig, FeedbackQuality
from loramux_server.experiments.sample import VariantSample

_MIN_UNITS = 10


def warnings_of(config: ExperimentConfig, challenger: VariantSample, reference: VariantSample) -> list[str]:
    """Return the warnings; the tests behind them may be looked at any time, too."""
    return list(_warnings(config, challenger, reference))


def _warnings(config: ExperimentConfig, challenger: VariantSample, reference: VariantSample) -> Iterator[str]:
    if not config.shadow:
        yield from _unequal_shares(config, challenger, reference)
        yield from _unequal_response(config, challenger, reference)
    scores = [*challenger.scores.values(), *reference.scores.values()]
    if len(scores) >= _MIN_UNITS and not any(scores):
        yield "No answer of either variant scored above 0: neither works, or the scorer is wrong."
    if any(unit.startswith("r") for unit in (*challenger.units, *reference.units)):
        yield (
            "Some requests name no user (the field `user` or `safety_identifier`): each counts as a user of its own, "
            "so if a few people sent many of them, the intervals are too narrow."
        )


def _unequal_shares(config: ExperimentConfig, challenger: VariantSample, reference: VariantSample) -> Iterator[str]:
    ours, theirs = len(challenger.units), len(reference.units)
    low, share, high = mean_interval(ScoreCounts.of([1.0] * ours + [0.0] * theirs))
    if ours + theirs and not low <= config.challenger_share <= high:
        yield (
            f"{config.challenger.name} got {share:.0%} of the users instead of {config.challenger_share:.0%}: requests "
            "were lost on the way, so the variants may not be comparable."
        )


def _unequal_response(config: ExperimentConfig, challenger: VariantSample, reference: VariantSample) -> Iterator[str]:
    rates = [
        ScoreCounts.of([1.0] * len(sample.scores) + [0.0] * (len(sample.units) - len(sample.scores)))
        for sample in (challenger, reference)
    ]
    low, _, high = difference_interval(*rates, challenger_share=config.challenger_share)
    if low > 0 or high < 0:
        what = "gave feedback" if isinstance(config.quality, FeedbackQuality) else "have a score"
        yield (
            f"{rates[0].mean:.0%} of the users of {config.challenger.name} {what}, but {rates[1].mean:.0%} of "
            f"{config.reference.name}: those who did may not be comparable."
        )
