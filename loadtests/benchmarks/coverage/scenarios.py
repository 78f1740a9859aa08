"""Made-up experiments whose truth is known: shares and graded scores of one arm, and of two arms paired by item."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import comb

import numpy as np
from numpy.random import Generator

from benchmarks.coverage.methods import FAMILIES, Array, Methods

SIZES = (10, 20, 50, 100, 200, 400)
SHARES_OF_RIGHT = (0.0, 0.002, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 0.998, 1.0)
Draw = Callable[[Generator, int, int], tuple[Array, ...]]
"""(random numbers, experiments, items) to the scores of one or two arms, each of shape (experiments, items)."""


@dataclass(frozen=True)
class Scenario:
    """An experiment: how to draw it, and the true mean, or the true difference of two means.

    With `probabilities`, a function of the items, `draw` returns all possible experiments: then coverage is exact.
    """

    name: str
    family: str
    """Of FAMILIES."""
    truth: float
    draw: Draw
    probabilities: Callable[[int], Array] | None = None

    @property
    def methods(self) -> Methods:
        """The methods for such data."""
        return FAMILIES[self.family]

    @property
    def lowest(self) -> float:
        """The lowest possible mean or difference; the highest is 1."""
        return -1.0 if self.family.startswith("differences") else 0.0


def scenarios() -> Iterator[Scenario]:
    """Yield all scenarios."""
    for share in SHARES_OF_RIGHT:
        yield Scenario(f"share {share:g}", "shares", share, _all_counts, partial(_binomial, share))
    yield from _graded_means()
    for (ours, theirs), same in product(_SHARE_PAIRS, (0.0, 0.5, 0.9)):
        name = f"shares {ours:g} and {theirs:g}, {same:.0%} tied"
        yield Scenario(name, "differences of shares", ours - theirs, _paired_shares(ours, theirs, same))
    yield from _graded_differences()


def _graded_means() -> Iterator[Scenario]:
    for mean, concentration in product((0.02, 0.1, 0.3, 0.5, 0.9, 0.98), (0.3, 2, 20)):
        name = f"beta, mean {mean:g}, concentration {concentration:g}"
        yield Scenario(name, "graded scores", mean, _betas(mean, concentration))
    for equal, value in product((0.5, 0.8, 0.95, 0.99), (0.5, 1.0)):
        truth = equal * value + (1 - equal) * 0.6
        yield Scenario(f"{equal:.0%} are {value:g}, else beta 0.6", "graded scores", truth, _inflated(equal, value))
    for mean in (0.1, 0.5, 0.9, 0.98):
        yield Scenario(f"5 fields, each right with {mean:g}", "graded scores", mean, _fields(mean))


def _graded_differences() -> Iterator[Scenario]:
    pairs = ((0.5, 0.5), (0.9, 0.9), (0.97, 0.9), (0.7, 0.4))
    for (ours, theirs), concentration, same in product(pairs, (1.0, 10.0), (0.0, 0.7)):
        name = f"betas {ours:g} and {theirs:g}, concentration {concentration:g}, {same:.0%} tied"
        yield Scenario(
            name, "differences of graded scores", ours - theirs, _paired_betas(ours, theirs, concentration, same)
        )
    for ours, theirs in ((0.8, 0.8), (0.95, 0.8), (0.98, 0.98)):
        name = f"5 fields, right with {ours:g} and {theirs:g}, half tied"
        yield Scenario(name, "differences of graded scores", ours - theirs, _paired_fields(ours, theirs))
    for rare, up in product((0.005, 0.02, 0.05, 0.2), (0.5, 1.0)):
        name = f"equal but for {rare:.1%}, of which {up:.0%} are better"
        yield Scenario(name, "differences of graded scores", rare * (2 * up - 1) * 0.6, _mostly_equal(rare, up))
    for rare in (0.01, 0.03, 0.1):
        name = f"nearly equal but for {rare:.0%}, which only ours has right"
        yield Scenario(name, "differences of graded scores", rare, _nearly_equal(rare))


_SHARE_PAIRS = (
    (0.0, 0.0), (0.01, 0.01), (0.05, 0.02), (0.1, 0.1), (0.3, 0.2), (0.5, 0.5), (0.7, 0.4), (0.9, 0.9), (0.95, 0.8),
    (0.99, 0.98), (1.0, 0.5), (1.0, 0.0), (1.0, 1.0),
)  # fmt: skip


def _all_counts(_rng: Generator, _experiments: int, items: int) -> tuple[Array, ...]:
    """Return one experiment for each number of right answers."""
    return (np.tri(items + 1, items, -1),)


def _binomial(share: float, items: int) -> Array:
    """Return the probability of each number of right answers."""
    return np.array([comb(items, right) * share**right * (1 - share) ** (items - right) for right in range(items + 1)])


def _betas(mean: float, concentration: float) -> Draw:
    return lambda rng, *shape: (rng.beta(mean * concentration, (1 - mean) * concentration, shape),)


def _inflated(equal: float, value: float) -> Draw:
    def draw(rng: Generator, *shape: int) -> tuple[Array, ...]:
        return (np.where(rng.random(shape) < equal, value, rng.beta(3, 2, shape)),)

    return draw


def _fields(mean: float) -> Draw:
    return lambda rng, *shape: (rng.binomial(5, rng.beta(2 * mean, 2 * (1 - mean), shape)) / 5,)


def _tied(rng: Generator, same: float, *shape: int) -> tuple[Array, Array]:
    """Two uniform numbers per item, which are equal with probability `same`: what makes an item hard for one arm."""
    one, other = rng.random(shape), rng.random(shape)
    return one, np.where(rng.random(shape) < same, one, other)


def _paired_shares(ours: float, theirs: float, same: float) -> Draw:
    def draw(rng: Generator, *shape: int) -> tuple[Array, ...]:
        one, other = _tied(rng, same, *shape)
        return (one < ours).astype(float), (other < theirs).astype(float)

    return draw


def _paired_betas(ours: float, theirs: float, concentration: float, same: float) -> Draw:
    """Scores of which a share `same` is an item's difficulty, common to both arms, and the rest is each arm's own."""

    def draw(rng: Generator, *shape: int) -> tuple[Array, ...]:
        common = rng.beta(concentration / 2, concentration / 2, shape) - 0.5
        arms = []
        for mean in (ours, theirs):
            own = rng.beta(mean * concentration, (1 - mean) * concentration, shape)
            room = 2 * min(mean, 1 - mean)
            arms.append((1 - same) * own + same * (mean + room * common))
        return tuple(arms)

    return draw


def _paired_fields(ours: float, theirs: float) -> Draw:
    def draw(rng: Generator, experiments: int, items: int) -> tuple[Array, ...]:
        one, other = _tied(rng, 0.5, experiments, items, 5)
        return (one < ours).mean(axis=2), (other < theirs).mean(axis=2)

    return draw


def _nearly_equal(rare: float) -> Draw:
    """Scores that differ by little, and in rare items by 1: what the items before that do not announce."""

    def draw(rng: Generator, *shape: int) -> tuple[Array, ...]:
        differs, noise = rng.random(shape) < rare, rng.uniform(-0.03, 0.03, shape)
        return np.where(differs, 1.0, 0.5 + noise), np.where(differs, 0.0, 0.5)

    return draw


def _mostly_equal(rare: float, up: float) -> Draw:
    """Scores that differ by 0.2 to 1 in rare items: the hardest data for an interval."""

    def draw(rng: Generator, *shape: int) -> tuple[Array, ...]:
        differs, size, is_up = rng.random(shape) < rare, rng.uniform(0.2, 1.0, shape), rng.random(shape) < up
        return np.where(differs & is_up, size, 0.0), np.where(differs & ~is_up, size, 0.0)

    return draw
