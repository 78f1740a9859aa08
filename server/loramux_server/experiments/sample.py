"""Turns the requests of an experiment into units: the values that its statistics are computed from."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from loramux_server.experiments.models import Observation, Outcome


@dataclass(frozen=True)
class VariantSample:
    """The requests of one variant."""

    requests: Sequence[Observation]

    @cached_property
    def units(self) -> list[str]:
        """The units, in the order of their first requests."""
        return list(dict.fromkeys(row.unit for row in self.requests))

    def count(self, outcome: Outcome) -> int:
        """Return the number of requests with this outcome."""
        return sum(row.outcome is outcome for row in self.requests)

    @cached_property
    def scores(self) -> dict[str, float]:
        """Each unit's score: that of its first request that has one.

        A later one would depend on how many requests the unit makes, which the variant may change.
        """
        first: dict[str, float] = {}
        for row in self.requests:
            if row.score is not None:
                first.setdefault(row.unit, row.score)
        return first

    def unit_means(self, value: Callable[[Observation], float | None]) -> list[float]:
        """Return the mean of a value over each unit's answered requests; requests without it are left out."""
        values: dict[str, list[float]] = defaultdict(list)
        for row in self.requests:
            found = value(row) if row.outcome is Outcome.ANSWERED else None
            if found is not None:
                values[row.unit].append(found)
        return [sum(each) / len(each) for each in values.values()]


def split_by_variant(rows: Iterable[Observation], challenger: str) -> tuple[VariantSample, VariantSample]:
    """Return the samples of the challenger and of the reference."""
    ours: list[Observation] = []
    theirs: list[Observation] = []
    for row in rows:
        (ours if row.variant == challenger else theirs).append(row)
    return VariantSample(ours), VariantSample(theirs)


def paired_rows(rows: Sequence[Observation]) -> list[Observation]:
    """Return the requests that both variants were asked."""
    variants: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        variants[row.unit, row.request_id].add(row.variant)
    return [row for row in rows if len(variants[row.unit, row.request_id]) > 1]


def scored_pairs(challenger: VariantSample, reference: VariantSample) -> list[tuple[float, float]]:
    """Return both scores of each unit's first request that both variants have a score for."""
    others = {(row.unit, row.request_id): row.score for row in reference.requests}
    pairs: dict[str, tuple[float, float]] = {}
    for row in challenger.requests:
        other = others.get((row.unit, row.request_id))
        if row.score is not None and other is not None:
            pairs.setdefault(row.unit, (row.score, other))
    return list(pairs.values())
