"""Which route each request asks for."""

import itertools
from collections.abc import Iterator
from typing import Annotated, Literal, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

BASE = "base"
"""The route that is the server's base model, by whatever name it has there."""
_DRAWN_AT_ONCE = 1024

Name = Annotated[str, Field(min_length=1, max_length=500)]


class Mix(BaseModel):
    """Routes by name, or `adapters` made-up ones (a0, a1, ...), and how often each is asked for.

    `zipf` gives the k-th route a weight of 1 / k ** exponent; `in turn` asks for one after the other, without chance.
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
            raise ValueError("a mix needs names of routes, or a number of adapters")
        if len(set(self.routes)) < len(self.routes):
            raise ValueError("a route is named twice: give it a larger weight instead")
        if self.weights is not None and self.popularity != "uniform":
            raise ValueError(f"weights and the popularity '{self.popularity}' exclude each other")
        if self.weights is not None and (len(self.weights) != len(self.routes) or not sum(self.weights)):
            raise ValueError(f"{len(self.routes)} routes need as many weights, of which one is more than 0")
        return self

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes, the most wanted first if they are skewed."""
        return (*self.names, *(f"a{number}" for number in range(self.adapters)))

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """How likely each of the routes is, in their order."""
        ranks = np.arange(1, len(self.routes) + 1)
        popular = ranks**-self.exponent if self.popularity == "zipf" else np.ones(len(ranks))
        weights = popular if self.weights is None else np.asarray(self.weights)
        return np.asarray(weights / weights.sum(), dtype=np.float64)

    def draw(self, chance: Generator) -> Iterator[str]:
        """The routes of one request after the other, without an end."""
        routes = self.routes
        if self.popularity == "in turn":
            yield from itertools.cycle(routes)
        while True:
            for position in chance.choice(len(routes), _DRAWN_AT_ONCE, p=self.probabilities):
                yield routes[position]
