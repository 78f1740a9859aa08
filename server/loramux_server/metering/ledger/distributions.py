"""How measures are distributed, in buckets 2 % wide: small to keep, exact to add up, and right to 1 % when read.

Other sketches are as good, but merging a hundred thousand of them in a second takes arrays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEASURES = (
    "duration",
    "first_token",
    "time_per_output_token",
    "queue",
    "input_tokens",
    "output_tokens",
    "price_list_cost",
    "gpu_hour_cost",
)
"""What is distributed; a measure's place is its number in a bucket's key, so new ones go to the end."""

GROWTH = 1.02
_LEAST = 1e-6
"""What is less counts as zero: nothing that is measured here is that small and of interest."""
_BUCKETS = 1 << 16
_PACKED = np.dtype([("key", "<u4"), ("count", "<u4")])


@dataclass(frozen=True, eq=False)
class Distributions:
    """How many values of each measure fell into each bucket: sorted keys, each MEASURE * 65536 + BUCKET, and counts."""

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: Mapping[str, Sequence[float | None]]) -> "Distributions":
        """Return how the values are distributed; what is None was not measured."""
        keys = [MEASURES.index(name) * _BUCKETS + _buckets(column) for name, column in values.items()]
        return cls._counted(np.concatenate(keys) if keys else np.empty(0, np.int64))

    @classmethod
    def unpack(cls, packed: Iterable[bytes]) -> "Distributions":
        """Return the sum of what `pack` made."""
        entries = np.frombuffer(b"".join(packed), _PACKED)
        return cls._counted(entries["key"].astype(np.int64), entries["count"])

    @classmethod
    def _counted(cls, keys: NDArray[np.int64], counts: NDArray[np.uint32] | None = None) -> "Distributions":
        unique, places = np.unique(keys, return_inverse=True)
        return cls(unique, np.bincount(places, counts, len(unique)).astype(np.int64))

    def pack(self) -> bytes:
        """Return the distributions as bytes, 8 for each bucket."""
        entries = np.empty(len(self.keys), _PACKED)
        entries["key"], entries["count"] = self.keys, self.counts
        return entries.tobytes()

    def __add__(self, other: "Distributions") -> "Distributions":
        return self._counted(np.append(self.keys, other.keys), np.append(self.counts, other.counts).astype(np.uint32))

    def measure(self, name: str) -> "Histogram":
        """Return how one measure is distributed."""
        first = MEASURES.index(name) * _BUCKETS
        start, stop = np.searchsorted(self.keys, [first, first + _BUCKETS])
        return Histogram(_values(self.keys[start:stop] - first), self.counts[start:stop])


@dataclass(frozen=True, eq=False)
class Histogram:
    """Values, ascending, and how often each was measured."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many were measured."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float | None:
        """Return the value that `share` of all do not exceed, None if there are none."""
        if not self.count:
            return None
        place = int(np.searchsorted(np.cumsum(self.counts), share * self.count))
        return float(self.values[min(place, len(self.values) - 1)])


def _buckets(values: Sequence[float | None]) -> NDArray[np.int64]:
    known = np.array([value for value in values if value is not None], float)
    steps = np.log(np.maximum(known, _LEAST) / _LEAST) / np.log(GROWTH)
    buckets: NDArray[np.int64] = np.round(steps).astype(np.int64)
    return buckets


def _values(buckets: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(buckets == 0, 0.0, _LEAST * GROWTH**buckets)
