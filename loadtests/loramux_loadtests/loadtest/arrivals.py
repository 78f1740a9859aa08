"""When requests come: processes without an end, the same moments for the same seed whatever they are used for."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
_DRAWN_AT_ONCE = 1024


class _Process(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: Rate
    """Requests a second, on average."""

    def moments(self, chance: Generator) -> Iterator[float]:
        """Seconds after the beginning at which requests come: ascending, without an end."""
        now = 0.0
        while True:
            for gap in self._gaps(chance):
                now += float(gap)
                yield now

    def _gaps(self, chance: Generator) -> NDArray[np.float64]:
        raise NotImplementedError


class Poisson(_Process):
    """Independent users: gaps are exponential."""

    process: Literal["poisson"] = "poisson"

    def _gaps(self, chance: Generator) -> NDArray[np.float64]:
        return chance.exponential(1 / self.rate, _DRAWN_AT_ONCE)


class Gamma(_Process):
    """Gaps of shape `burstiness`, as vLLM's benchmark means it: below 1 requests come in bursts, above 1 evenly."""

    process: Literal["gamma"] = "gamma"
    burstiness: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]

    def _gaps(self, chance: Generator) -> NDArray[np.float64]:
        return chance.gamma(self.burstiness, 1 / (self.rate * self.burstiness), _DRAWN_AT_ONCE)


class Constant(_Process):
    """Every gap the same."""

    process: Literal["constant"] = "constant"

    def moments(self, chance: Generator) -> Iterator[float]:
        """As of every process; multiples of the gap, which don't drift."""
        del chance
        return (number / self.rate for number in count())


class Bursts(_Process):
    """`size` requests at the same moment, again and again."""

    process: Literal["bursts"] = "bursts"
    size: Annotated[int, Field(ge=1, le=100_000)]

    def moments(self, chance: Generator) -> Iterator[float]:
        """As of every process; the first burst comes at once."""
        del chance
        return (number * self.size / self.rate for number in count() for _ in range(self.size))


class Trace(BaseModel):
    """What a file recorded: CSV or JSONL of seconds, route, input tokens and output tokens (see trace.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    process: Literal["trace"] = "trace"
    file: Path
    rate: Rate | None = None
    """Played faster or slower, so that so many requests come in a second on average."""


Arrivals = Annotated[Poisson | Gamma | Constant | Bursts | Trace, Field(discriminator="process")]
