"""Each route beside the base: how much faster, shorter and cheaper, how sure that is, and when a fine-tune has paid."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from math import ceil

import numpy as np
from numpy.typing import NDArray

from loramux_server.metering.ledger.distributions import Histogram
from loramux_server.metering.ledger.reader import Usage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 400
_LOW, _HIGH = 0.025, 0.975

Statistic = Callable[[Floats, Ints], Floats]
"""Of B values and how often each was measured in R samples (R rows of B counts): a figure for each sample."""


def _median(values: Floats, counts: Ints) -> Floats:
    halves = counts.sum(axis=1, keepdims=True) / 2
    places: Ints = np.sum(counts.cumsum(axis=1) < halves, axis=1)
    return values[places]


def _mean(values: Floats, counts: Ints) -> Floats:
    means: Floats = counts @ values / counts.sum(axis=1)
    return means


COMPARED: dict[str, tuple[str, Statistic]] = {
    "first_token_p50": ("first_token", _median),
    "time_per_output_token_p50": ("time_per_output_token", _median),
    "duration_p50": ("duration", _median),
    "input_tokens_mean": ("input_tokens", _mean),
    "output_tokens_mean": ("output_tokens", _mean),
    "price_list_cost_mean": ("price_list_cost", _mean),
    "gpu_hour_cost_mean": ("gpu_hour_cost", _mean),
}
"""What is compared with the base: a measure, and what of its distribution."""


@dataclass(frozen=True)
class Ratio:
    """A route's figure over the base's, with the bounds of a 95 % bootstrap interval."""

    ratio: float
    low: float
    high: float


def ratios(usage: Usage, base: Usage, seed: int = 0) -> Iterator[tuple[str, Ratio]]:
    """Yield what can be compared: both sides were measured, and the base's figure is not zero.

    Live traffic is no experiment: whoever asks the adapter may ask for something else than who asks the base.
    """
    chance = np.random.default_rng(seed)
    mine, theirs = usage.distributions(), base.distributions()
    for name, (measure, statistic) in COMPARED.items():
        if ratio := _ratio(mine.measure(measure), theirs.measure(measure), statistic, chance):
            yield name, ratio


def _ratio(mine: Histogram, theirs: Histogram, statistic: Statistic, chance: np.random.Generator) -> Ratio | None:
    if not (mine.count and theirs.count):
        return None
    # The first sample is what was measured, the others are what might have been.
    above, below = (statistic(side.values, side.resampled(RESAMPLES, chance)) for side in (mine, theirs))
    if not below.all():
        return None
    samples = above / below
    low, high = np.quantile(samples[1:], [_LOW, _HIGH])
    return Ratio(float(samples[0]), float(low), float(high))


def break_even(base_cost: Decimal, cost: Decimal, to_earn: Decimal) -> tuple[Decimal, int | None]:
    """Return what a request saves, and how many it takes to earn what making and a month of keeping it cost.

    None: never, because nothing is saved. The requests must come within a month; each month after it, the storage has
    to be earned again.
    """
    saving = base_cost - cost
    return saving, ceil(to_earn / saving) if saving > 0 else None
