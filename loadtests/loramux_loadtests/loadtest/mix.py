"""The mix of routes: which route each request is sent to."""

import itertools
from collections.abc import Iterator
from typing import Annotated, Literal, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

BASE = "base"
"""The route to the server's base model, whatever its name on that server is."""
_BATCH = 1024

Name = Annotated[str, Field(min_length=1, max_length=500)]


class Mix(BaseModel):
    """Routes by name, or a number of synthetic `adapters` (a0, a1, ...), and how often each is requested.

    `zipf` gives the k-th route a weight of 1 / k ** exponent; `in turn` cycles through the routes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: Annotated[tuple[Name, ...], Field(max_length=100_000)] = ()
    adapters: Annotated[int, Field(ge=0, le=100_000)] = 0
    popularity: Literal["uniform", "zipf", "in turn"] = "uniform"
    exponent: Annotated[float, Field(gt=0, le=10)] = 1.0
    weights: tuple[Annotated[float, Field(ge=0, le=1e9)], ...] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.routes:
            raise ValueError("the mix has no routes: set `names` or `adapters`")
        if len(set(self.routes)) < len(self.routes):
            raise ValueError("`names` repeats a route: give the route a larger weight instead")
        if self.weights is not None and self.popularity != "uniform":
            raise ValueError(f"`weights` can't be combined with popularity '{self.popularity}': remove one of them")
        if self.weights is not None and (len(self.weights) != len(self.routes) or not sum(self.weights)):
            raise ValueError(f"expected {len(self.routes)} weights, one per route, at least one of them above 0")
        return self

    @property
    def routes(self) -> tuple[str, ...]:
        """All routes; with `zipf`, the most popular first."""
        return (*self.names, *(f"a{number}" for number in range(self.adapters)))

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Probability of each route, in the order of `routes`."""
        ranks = np.arange(1, len(self.routes) + 1)
        popular = ranks**-self.exponent if self.popularity == "zipf" else np.ones(len(ranks))
        weights = popular if self.weights is None else np.asarray(self.weights)
        return np.asarray(weights / weights.sum(), dtype=np.float64)

    def draw(self, rng: Generator) -> Iterator[str]:
        """Yield the route of each request, endlessly."""
        routes = self.routes
        if self.popularity == "in turn":
            yield from itertools.cycle(routes)
        while True:
            for position in rng.choice(len(routes), _BATCH, p=self.probabilities):
                yield routes[position]
