"""Selection of the baseline: the best of several variants, on items that are not used for the verdict."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MAX_SELECTION_ITEMS = 20
MIN_SELECTION_ITEMS = 5
"""With fewer, scores of variants say too little to choose by them."""
_SELECTION_SHARE = 0.25


class Split(NamedTuple):
    """Indices of items: those to choose a variant with, and the others, both in random order."""

    selection: Sequence[int]
    rest: Sequence[int]


def split_for_selection(count: int, *, max_selection: int = MAX_SELECTION_ITEMS, seed: int = 0) -> Split:
    """Split items at random: a quarter of them, at most `max_selection`, is for choosing; none if that is too few."""
    order = random.Random(seed).sample(range(count), count)  # noqa: S311 - a choice, not a secret
    chosen = min(max_selection, int(_SELECTION_SHARE * count))
    if chosen < MIN_SELECTION_ITEMS:
        chosen = 0
    return Split(order[:chosen], order[chosen:])


def best_variant(scores: Mapping[str, float]) -> str:
    """Return the name with the highest mean score; `scores` are in order of their prompts' size, smallest first.

    Of equals, the smallest prompt is taken, as it costs least; but the largest if nothing scored above 0: it has what
    the others have, and more.
    """
    names = list(scores) if any(score > 0 for score in scores.values()) else list(reversed(list(scores)))
    return max(names, key=lambda name: scores[name])
