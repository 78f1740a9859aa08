"""Cost of answers, by a price list for tokens and by the time of the machine that made them."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from pydantic import Field

from loramux_adapters.evaluation.intervals import unbounded_mean_interval
from loramux_adapters.evaluation.statistics import Interval, Samples
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

    def answer_usd(self, answer: MeasuredAnswer, model: str, base_model: str | None) -> float | None:
        """Return the cost of an answer's tokens, None if they have no price.

        `model` is the arm's, which is the base if it is `base_model`.
        """
        own = self.arms.get(answer.arm, self.default)
        if own is not None:
            return token_usd(own, answer)
        adapter = None if base_model in (None, model) else model
        has_own_tokens = adapter is not None and self.adapter_prices(adapter.partition("@")[0]).tokens is not None
        is_priced = has_own_tokens or "base" in self.model_fields_set
        return request_usd(self, adapter, answer) if is_priced else None


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
    """The cost of an arm by those of COST_MODES that are known: its tokens have prices, there are whole batches."""
    samples = {}
    by_tokens = [prices.answer_usd(answer, model, base_model) for answer in answers]
    if None not in by_tokens:
        samples["price_list"] = CostSamples(np.array(by_tokens, float), np.ones(len(answers)))
    if batches:
        by_time = np.array([prices.machine_usd(batch.seconds) for batch in batches])
        samples["gpu_hour"] = CostSamples(by_time, np.array([batch.answers for batch in batches], float))
    return samples


def cost_per_answer(samples: CostSamples) -> Interval | None:
    """The cost of an answer in US dollars; None for fewer than MIN_ITEMS samples, as for all intervals here."""
    return _interval(samples.usd_per_answer + _influences(samples))


def saving_per_answer(challenger: CostSamples, reference: CostSamples) -> Interval | None:
    """The US dollars that the challenger saves with each answer."""
    ours, theirs = _paired(challenger, reference)
    saving = reference.usd_per_answer - challenger.usd_per_answer
    return _interval(saving + _influences(theirs) - _influences(ours))


def cost_ratio(challenger: CostSamples, reference: CostSamples) -> Interval | None:
    """The challenger's cost of an answer divided by the reference's; also None where one of them is 0."""
    our_usd, their_usd = challenger.usd_per_answer, reference.usd_per_answer
    if not (our_usd and their_usd):
        return None
    ours, theirs = _paired(challenger, reference)
    # On the logarithmic scale, so that no bound is negative and the inverse ratio has the inverse interval.
    logs = unbounded_mean_interval(
        np.log(our_usd / their_usd) + _influences(ours) / our_usd - _influences(theirs) / their_usd
    )
    return Interval(*(float(np.exp(value)) for value in logs)) if logs else None


def _interval(values: Samples) -> Interval | None:
    return unbounded_mean_interval(values.tolist())


def _influences(samples: CostSamples) -> Samples:
    """How much each sample moves the cost of an answer, a ratio of sums; their mean is 0 (the delta method)."""
    residuals = samples.dollars - samples.usd_per_answer * samples.answers
    return np.asarray(residuals / samples.answers.mean(), np.float64)


def _paired(challenger: CostSamples, reference: CostSamples) -> list[CostSamples]:
    """As many samples of both, in pairs: what slowed one arm's batch may have slowed the other's."""
    count = min(len(challenger.dollars), len(reference.dollars))
    return [CostSamples(arm.dollars[:count], arm.answers[:count]) for arm in (challenger, reference)]
