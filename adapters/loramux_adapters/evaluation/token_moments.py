"""Means and covariances of two variants' token counts on the same items: enough for their saving at any prices."""

from collections.abc import Sequence
from math import sqrt
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from loramux_adapters.evaluation.statistics import Interval, t_quantile

MIN_REQUESTS = 10
"""With fewer requests of each variant, no interval is given."""
_COUNTS = 3

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class TokenCounts(NamedTuple):
    """The tokens of a request; `input` includes the `cached` ones, None where nobody counted them."""

    input: int
    cached: int | None
    output: int


class TokenCosts(NamedTuple):
    """The cost of one token of each kind, all in one unit such as nano-dollars."""

    input: float
    """An input token that is not cached."""
    cached: float
    output: float


class TokenMoments(BaseModel):
    """Moments of the token counts of `requests` pairs: the adapter's and the baseline's request for the same item.

    Each pair is a vector of 6: uncached input, cached and output tokens of the adapter, then of the baseline. `means`
    has the shape (6,), `covariance` (6, 6), unbiased.
    """

    model_config = ConfigDict(frozen=True)

    requests: Annotated[int, Field(ge=2)]
    means: list[_Finite]
    covariance: list[list[_Finite]]
    has_cached: bool
    """Whether cached tokens were counted; if not, all input tokens count as uncached."""

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        if [len(self.means), *map(len, self.covariance)] != [2 * _COUNTS] * (1 + 2 * _COUNTS):
            raise ValueError(f"expected {2 * _COUNTS} means and a square covariance of them")
        return self

    @classmethod
    def of(cls, adapter: Sequence[TokenCounts], baseline: Sequence[TokenCounts]) -> Self | None:
        """Return the moments of paired requests, in the same order; None for fewer than two.

        Raises:
            ValueError: the variants have different numbers of requests.
        """
        if len(adapter) != len(baseline):
            raise ValueError(f"{len(adapter)} requests can't be paired with {len(baseline)}")
        if len(adapter) < 2:
            return None
        pairs = [[*_vector(ours), *_vector(theirs)] for ours, theirs in zip(adapter, baseline, strict=True)]
        samples = np.asarray(pairs, float)
        return cls(
            requests=len(pairs),
            means=samples.mean(axis=0).tolist(),
            covariance=np.cov(samples, rowvar=False).tolist(),
            has_cached=all(counts.cached is not None for counts in (*adapter, *baseline)),
        )

    def saving(self, adapter: TokenCosts, baseline: TokenCosts) -> Interval:
        """Return the baseline's mean cost minus the adapter's, with its 95 % t interval, which is paired."""
        weights = np.array([*(-np.array(adapter)), *baseline])
        variance = float(weights @ np.array(self.covariance) @ weights)
        half = t_quantile(0.975, self.requests - 1) * sqrt(max(variance, 0.0) / self.requests)
        saving = float(weights @ np.array(self.means))
        return Interval(saving - half, saving, saving + half)


def _vector(counts: TokenCounts) -> tuple[int, int, int]:
    cached = counts.cached or 0
    return counts.input - cached, cached, counts.output
