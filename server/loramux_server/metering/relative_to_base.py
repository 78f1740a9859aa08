"""Latency, length and cost of a route relative to the base, with bootstrap confidence intervals."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loramux_server.metering.ledger.distributions import Histogram
from loramux_server.metering.ledger.reader import UsageTotals

Floats = NDArray[np.float64]

RESAMPLES = 400
_LOW, _HIGH = 0.025, 0.975
_MAX_DRAWN = 200
"""Up to this many measurements, each sample is drawn one by one; above, means are taken as normally distributed."""

Statistic = Callable[[Histogram, np.random.Generator], Floats]
"""Returns a figure of a histogram, then the same figure of RESAMPLES bootstrap samples: (1 + RESAMPLES,)."""


def _median(measured: Histogram, rng: np.random.Generator) -> Floats:
    """The rank of a bootstrap sample's median has a beta distribution, so only the rank is drawn."""
    count, below = measured.count, measured.counts.cumsum()
    middle = (count + 1) // 2
    shares = np.append(middle / count, rng.beta(middle, count + 1 - middle, RESAMPLES))
    return measured.values[np.searchsorted(below / count, shares)]


def _mean(measured: Histogram, rng: np.random.Generator) -> Floats:
    """Draw the samples of few measurements; take the means of many as normally distributed."""
    count, values = measured.count, measured.values
    mean = measured.counts @ values / count
    if count > _MAX_DRAWN:
        error = np.sqrt(measured.counts @ (values - mean) ** 2) / count
        samples = np.maximum(mean + error * rng.standard_normal(RESAMPLES), 0)
    else:
        samples = np.repeat(values, measured.counts)[rng.integers(count, size=(RESAMPLES, count))].mean(axis=1)
    return np.append(mean, samples)


COMPARED_FIGURES: dict[str, tuple[str, Statistic]] = {
    "first_token_p50": ("first_token", _median),
    "time_per_output_token_p50": ("time_per_output_token", _median),
    "duration_p50": ("duration", _median),
    "input_tokens_mean": ("input_tokens", _mean),
    "output_tokens_mean": ("output_tokens", _mean),
    "price_list_cost_mean": ("price_list_cost", _mean),
    "gpu_hour_cost_mean": ("gpu_hour_cost", _mean),
}
"""The figures compared with the base: each a measure and a statistic of its distribution."""


@dataclass(frozen=True)
class RatioInterval:
    """A route's figure divided by the base's, with the bounds of a 95 % bootstrap interval."""

    ratio: float
    low: float
    high: float


class BaseComparison:
    """Compares routes with the base, whose bootstrap samples are drawn once."""

    def __init__(self, usage: UsageTotals, seed: int = 0) -> None:
        self.usage, self._rng = usage, np.random.default_rng(seed)
        self._samples = self._bootstrap(usage)

    def ratios(self, usage: UsageTotals) -> Iterator[tuple[str, RatioInterval]]:
        """Yield the ratio of each figure that both sides have and that is not zero on the base.

        The ratios are observational: requests to the adapter and to the base may differ.
        """
        for name, above in self._bootstrap(usage).items():
            below = self._samples.get(name)
            if below is not None and below.all():
                yield name, _ratio(above / below)

    def _bootstrap(self, usage: UsageTotals) -> dict[str, Floats]:
        found, measured = usage.distributions(), dict[str, Floats]()
        for name, (measure, statistic) in COMPARED_FIGURES.items():
            histogram = found.measure(measure)
            if histogram.count:
                measured[name] = statistic(histogram, self._rng)
        return measured


def _ratio(samples: Floats) -> RatioInterval:
    """The first sample is the measured figure, the others are bootstrap samples."""
    low, high = np.quantile(samples[1:], [_LOW, _HIGH])
    return RatioInterval(float(samples[0]), float(low), float(high))
