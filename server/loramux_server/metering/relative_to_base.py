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

RESAMPLES = 400
_LOW, _HIGH = 0.025, 0.975
_DRAWN = 200
"""Up to so many measurements are drawn one by one for each sample."""

Statistic = Callable[[Histogram, np.random.Generator], Floats]
"""Of what was measured: a figure, and the same figure of RESAMPLES bootstrap samples."""


def _median(measured: Histogram, chance: np.random.Generator) -> Floats:
    """What stands in the middle of a sample is what stood at a place with a known distribution: no need to draw all."""
    count, below = measured.count, measured.counts.cumsum()
    middle = (count + 1) // 2
    shares = np.append(middle / count, chance.beta(middle, count + 1 - middle, RESAMPLES))
    return measured.values[np.searchsorted(below / count, shares)]


def _mean(measured: Histogram, chance: np.random.Generator) -> Floats:
    """The means of many measurements' samples are normally distributed; those of a few are drawn."""
    count, values = measured.count, measured.values
    mean = measured.counts @ values / count
    if count > _DRAWN:
        error = np.sqrt(measured.counts @ (values - mean) ** 2) / count
        samples = np.maximum(mean + error * chance.standard_normal(RESAMPLES), 0)
    else:
        samples = np.repeat(values, measured.counts)[chance.integers(count, size=(RESAMPLES, count))].mean(axis=1)
    return np.append(mean, samples)


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


class Base:
    """What others are compared with; it is sampled once, however many there are."""

    def __init__(self, usage: Usage, seed: int = 0) -> None:
        self.usage, self._chance = usage, np.random.default_rng(seed)
        self._samples = self._sampled(usage)

    def ratios(self, usage: Usage) -> Iterator[tuple[str, Ratio]]:
        """Yield what can be compared: both sides were measured, and the base's figure is not zero.

        Live traffic is no experiment: whoever asks the adapter may ask for something else than who asks the base.
        """
        for name, above in self._sampled(usage).items():
            below = self._samples.get(name)
            if below is not None and below.all():
                yield name, _ratio(above / below)

    def _sampled(self, usage: Usage) -> dict[str, Floats]:
        found, measured = usage.distributions(), dict[str, Floats]()
        for name, (measure, statistic) in COMPARED.items():
            histogram = found.measure(measure)
            if histogram.count:
                measured[name] = statistic(histogram, self._chance)
        return measured


def _ratio(samples: Floats) -> Ratio:
    """The first sample is what was measured, the others are what might have been."""
    low, high = np.quantile(samples[1:], [_LOW, _HIGH])
    return Ratio(float(samples[0]), float(low), float(high))


def break_even(base_cost: Decimal, cost: Decimal, to_earn: Decimal) -> tuple[Decimal, int | None]:
    """Return what a request saves, and how many it takes to earn what making and a month of keeping it cost.

    None: never, because nothing is saved. The requests must come within a month; each month after it, the storage has
    to be earned again.
    """
    saving = base_cost - cost
    return saving, ceil(to_earn / saving) if saving > 0 else None
