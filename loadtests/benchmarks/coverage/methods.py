"""Methods for intervals, the one that loramux uses and others to compare it with, on many experiments at once.

Experiments are arrays of shape (experiments, items): scores of one arm, or scores of two arms that are paired by item.
Each method returns the lower and the upper ends, of shape (experiments,).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from loramux_adapters.evaluation.intervals import difference_interval, mean_interval
from loramux_adapters.evaluation.statistics import Interval, t_quantile

Array = NDArray[np.float64]
Ends = tuple[Array, Array]
Z = 1.959964
CHOSEN = "pseudo-observations"
_RESAMPLES = 200


def _apply(function: Callable[..., Interval], *arms: Array) -> Ends:
    intervals = np.array([function(*map(np.ndarray.tolist, rows)) for rows in zip(*arms, strict=True)])
    return intervals[:, 0], intervals[:, 2]


def chosen_mean(scores: Array) -> Ends:
    """Use loramux's interval of a mean."""
    return _apply(mean_interval, scores)


def chosen_difference(ours: Array, theirs: Array) -> Ends:
    """Use loramux's interval of a paired difference."""
    return _apply(difference_interval, ours, theirs)


def plain_t(samples: Array) -> Ends:
    """Student's interval of a mean."""
    count = samples.shape[1]
    half = t_quantile(0.975, count - 1) * samples.std(axis=1, ddof=1) / np.sqrt(count)
    return samples.mean(axis=1) - half, samples.mean(axis=1) + half


def bootstrap(samples: Array) -> Ends:
    """The percentile interval of a mean."""
    rng, count = np.random.default_rng(0), samples.shape[1]
    weights = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count
    low, high = np.quantile(samples @ weights.T, [0.025, 0.975], axis=1)
    return np.asarray(low), np.asarray(high)


def scaled_pseudo_observations(differences: Array) -> Ends:
    """As the chosen method for differences, with pseudo-observations as far out as the largest observed difference."""
    reach = np.abs(differences).max(axis=1)
    reach = np.where(reach == 0, 1.0, reach)[:, None]
    return plain_t(np.concatenate([differences, -reach, reach], axis=1))


def wilson(scores: Array) -> Ends:
    """Wilson's score interval of a share (1927)."""
    count, share = scores.shape[1], scores.mean(axis=1)
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return middle - half, middle + half


def agresti_coull(scores: Array) -> Ends:
    """Agresti and Coull's interval of a share (1998)."""
    count = scores.shape[1] + Z**2
    share = (scores.sum(axis=1) + Z**2 / 2) / count
    half = Z * np.sqrt(share * (1 - share) / count)
    return share - half, share + half


def bonett_price(ours: Array, theirs: Array) -> Ends:
    """Bonett and Price's interval of a paired difference of shares (2012)."""
    count = ours.shape[1] + 2
    only_ours, only_theirs = (np.sum(one > other, axis=1) + 1 for one, other in ((ours, theirs), (theirs, ours)))
    difference = (only_ours - only_theirs) / count
    half = Z * np.sqrt(((only_ours + only_theirs) / count - difference**2) / count)
    return difference - half, difference + half


def tango(ours: Array, theirs: Array) -> Ends:
    """Tango's score interval of a paired difference of shares (1998), by bisection."""
    count = ours.shape[1]
    b, c = (np.sum(one > other, axis=1) for one, other in ((ours, theirs), (theirs, ours)))

    def statistic(delta: Array) -> Array:
        linear = -b - c + (2 * count - b + c) * delta
        root = np.sqrt(np.maximum(linear**2 + 8 * count * c * delta * (1 - delta), 0))
        variance = count * (2 * (root - linear) / (4 * count) + delta * (1 - delta))
        return np.asarray((b - c - count * delta) / np.sqrt(np.maximum(variance, 1e-12)))

    return _solve(statistic, Z, len(b)), _solve(statistic, -Z, len(b))


def _solve(falling: Callable[[Array], Array], value: float, size: int) -> Array:
    low, high = np.full(size, -1.0), np.full(size, 1.0)
    for _ in range(40):
        middle = (low + high) / 2
        is_above = falling(middle) > value
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    return np.asarray((low + high) / 2)


def newcombe(ours: Array, theirs: Array) -> Ends:
    """Newcombe's tenth method for a paired difference of shares (1998)."""
    count = ours.shape[1]
    one, other = ours.mean(axis=1), theirs.mean(axis=1)
    (low_one, high_one), (low_other, high_other) = wilson(ours), wilson(theirs)
    both = (ours * theirs).sum(axis=1)
    cross = both * (count - ours.sum(axis=1) - theirs.sum(axis=1) + both) - (ours.sum(axis=1) - both) * (
        theirs.sum(axis=1) - both
    )
    corrected = np.where(cross > 0, np.maximum(cross - count / 2, 0), cross)
    scale = np.sqrt(one * (1 - one) * other * (1 - other)) * count**2
    phi = np.divide(corrected, scale, out=np.zeros_like(scale), where=scale > 0)
    difference = one - other
    lower = _combined(one - low_one, high_other - other, phi)
    upper = _combined(high_one - one, other - low_other, phi)
    return difference - lower, difference + upper


def _combined(one: Array, other: Array, phi: Array) -> Array:
    return np.asarray(np.sqrt(np.maximum(one**2 - 2 * phi * one * other + other**2, 0)))


def _of_differences(method: Callable[[Array], Ends]) -> Callable[[Array, Array], Ends]:
    return lambda ours, theirs: method(ours - theirs)


Methods = dict[str, Callable[..., Ends]]
GRADED_MEANS: Methods = {CHOSEN: chosen_mean, "plain t": plain_t, "bootstrap": bootstrap}
SHARES: Methods = {CHOSEN: chosen_mean, "Wilson": wilson, "Agresti-Coull": agresti_coull, "bootstrap": bootstrap}
GRADED_DIFFERENCES: Methods = {
    CHOSEN: chosen_difference,
    "scaled pseudo-observations": _of_differences(scaled_pseudo_observations),
    "plain t": _of_differences(plain_t),
    "bootstrap": _of_differences(bootstrap),
}
PAIRED_SHARES: Methods = {
    CHOSEN: chosen_difference,
    "Bonett-Price": bonett_price,
    "Tango": tango,
    "Newcombe 10": newcombe,
    "bootstrap": _of_differences(bootstrap),
}
FAMILIES: dict[str, Methods] = {
    "shares": SHARES,
    "graded scores": GRADED_MEANS,
    "differences of shares": PAIRED_SHARES,
    "differences of graded scores": GRADED_DIFFERENCES,
}


def coverage(ends: Ends, truth: float, lowest: float, weights: Array | None) -> tuple[float, float]:
    """Return the share of intervals that contain the truth, and their mean width within `lowest` to 1.

    `weights` are the probabilities of the experiments, equal ones by default.
    """
    low, high = np.maximum(ends[0], lowest), np.minimum(ends[1], 1)
    contains = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
    return float(np.average(contains, weights=weights)), float(np.average(high - low, weights=weights))
