"""Cost of answers, by a price list for tokens and by the time of the machine that made them."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from pydantic import Field

from loramux_adapters.evaluation.statistics import Interval, Samples, percentile_interval, resample_indices
from loramux_adapters.evaluation.token_prices import AdapterPrices, Dollars, PriceList, TokenPrices
from loramux_loadtests.compare.answer_log import Batch, MeasuredAnswer
from loramux_loadtests.prices import request_usd, token_usd

COST_MODES = ("price_list", "gpu_hour")


class ComparisonPrices(PriceList):
    """A price list as in loramux.yaml, with more prices for comparisons.

    `arms` has token prices by the arms' names, and `default` is for other arms; without both, an arm's tokens cost as
    much as its model's in the price list. An arm pays for the machine (`gpu_hour`) for the time of its batches.
    `training` is the one-time cost of the challenger, `month` its cost per month.
    """

    default: TokenPrices | None = None
    arms: dict[str, TokenPrices] = Field(default={})
    training: Dollars = Decimal(0)
    month: Dollars = Decimal(0)

    @property
    def needs_base_model(self) -> bool:
        """Whether adapters have other prices than the base, so that its name must be known."""
        return self.default is None and bool(self.adapters or self.adapter != AdapterPrices())

    @property
    def fixed_cost_usd(self) -> float:
        """The cost of making the challenger and of keeping it for a month."""
        return float(self.training + self.month)

    def answer_usd(self, answer: MeasuredAnswer, model: str, base_model: str | None) -> float:
        """Return the cost of an answer's tokens; `model` is the arm's, which is the base if it is `base_model`."""
        own = self.arms.get(answer.arm, self.default)
        if own is not None:
            return token_usd(own, answer)
        return request_usd(self, None if base_model in (None, model) else model, answer)


class CostSamples(NamedTuple):
    """The cost of an arm in consecutive samples: US dollars, and the number of answers each of them paid for.

    A sample is one answer by the price list, and one batch by the machine's time.
    """

    dollars: Samples
    answers: Samples

    @property
    def usd_per_answer(self) -> float:
        """Mean cost of an answer in US dollars."""
        return float(self.dollars.sum() / self.answers.sum())


def cost_samples(
    answers: Sequence[MeasuredAnswer],
    batches: Sequence[Batch],
    prices: ComparisonPrices,
    model: str,
    base_model: str | None,
) -> Mapping[str, CostSamples]:
    """The cost of an arm by each of COST_MODES; by the machine's time only if there are whole batches."""
    by_tokens = np.array([prices.answer_usd(answer, model, base_model) for answer in answers])
    samples = {"price_list": CostSamples(by_tokens, np.ones(len(answers)))}
    if batches:
        by_time = np.array([prices.machine_usd(batch.seconds) for batch in batches])
        samples["gpu_hour"] = CostSamples(by_time, np.array([batch.answers for batch in batches], float))
    return samples


def cost_per_answer(samples: CostSamples) -> Interval:
    """The cost of an answer in US dollars."""
    (resampled,) = _resampled_means(samples)
    return percentile_interval(resampled, samples.usd_per_answer)


def cost_ratio(challenger: CostSamples, reference: CostSamples) -> Interval | None:
    """The challenger's cost of an answer divided by the reference's; None where the latter may be 0."""
    ours, theirs = _resampled_means(challenger, reference)
    if not theirs.all():
        return None
    return percentile_interval(ours / theirs, challenger.usd_per_answer / reference.usd_per_answer)


def saving_per_answer(challenger: CostSamples, reference: CostSamples) -> Interval:
    """The US dollars that the challenger saves with each answer."""
    ours, theirs = _resampled_means(challenger, reference)
    return percentile_interval(theirs - ours, reference.usd_per_answer - challenger.usd_per_answer)


def _resampled_means(*arms: CostSamples) -> list[Samples]:
    """Bootstrap means with the same indices for each arm: what slowed one arm's batch may have slowed the other's."""
    indices = resample_indices(min(len(arm.dollars) for arm in arms))
    return [arm.dollars[indices].sum(axis=1) / arm.answers[indices].sum(axis=1) for arm in arms]
