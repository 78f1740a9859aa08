"""Arrival processes: endless sequences of request times, equal for equal seeds."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
_BATCH = 1024


class _ArrivalProcess(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: Rate
    """Requests per second, on average."""

    def times(self, rng: Generator) -> Iterator[float]:
        """Yield request times in seconds after the start, ascending and endless."""
        now = 0.0
        while True:
            for interval in self._intervals(rng):
                now += float(interval)
                yield now

    def _intervals(self, rng: Generator) -> NDArray[np.float64]:
        raise NotImplementedError


class Poisson(_ArrivalProcess):
    """Independent users: exponential intervals."""

    process: Literal["poisson"] = "poisson"

    def _intervals(self, rng: Generator) -> NDArray[np.float64]:
        return rng.exponential(1 / self.rate, _BATCH)


class Gamma(_ArrivalProcess):
    """Intervals of shape `burstiness`, as in vLLM's benchmark: bursts below 1, more even arrivals above 1."""

    process: Literal["gamma"] = "gamma"
    burstiness: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]

    def _intervals(self, rng: Generator) -> NDArray[np.float64]:
        return rng.gamma(self.burstiness, 1 / (self.rate * self.burstiness), _BATCH)


class Constant(_ArrivalProcess):
    """Equal intervals."""

    process: Literal["constant"] = "constant"

    def times(self, rng: Generator) -> Iterator[float]:
        """Yield multiples of the interval, which don't accumulate rounding errors."""
        del rng
        return (number / self.rate for number in count())


class Bursts(_ArrivalProcess):
    """Repeated bursts of `size` simultaneous requests."""

    process: Literal["bursts"] = "bursts"
    size: Annotated[int, Field(ge=1, le=100_000)]

    def times(self, rng: Generator) -> Iterator[float]:
        """Yield the time of each request; the first burst is at 0."""
        del rng
        return (number * self.size / self.rate for number in count() for _ in range(self.size))


class Trace(BaseModel):
    """Recorded traffic: CSV or JSONL with seconds, route, input tokens and output tokens (see trace.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: Literal["trace"] = "trace"
    file: Path
    rate: Rate | None = None
    """Replay speed: requests per second, on average. None keeps the recorded times."""


Arrivals = Annotated[Poisson | Gamma | Constant | Bursts | Trace, Field(discriminator="process")]
