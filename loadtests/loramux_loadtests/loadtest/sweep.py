"""Search for the highest rate at which a server meets a goal."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import sqrt

MAX_TRIES = 40
MIN_RATE, MAX_RATE = 1e-3, 1e5
"""Limits of the search, in requests per second."""


@dataclass(frozen=True)
class Bracket:
    """The highest rate that met the goal (0 if none did) and the lowest that missed it (None if none did)."""

    met: float
    missed: float | None

    def is_narrow(self, precision: float) -> bool:
        """Whether the rate is known with this relative precision, 0.1 for a tenth."""
        if self.missed is None:
            return self.met >= MAX_RATE
        return self.missed <= MIN_RATE or 0 < self.missed / (1 + precision) <= self.met

    def next_rate(self) -> float:
        """Return the rate to try next: double or half until both limits are known, then their geometric mean."""
        if self.missed is None:
            return min(self.met * 2, MAX_RATE)
        return sqrt(self.met * self.missed) if self.met else max(self.missed / 2, MIN_RATE)

    def narrowed(self, rate: float, *, met: bool) -> "Bracket":
        """Return the bracket after trying one more rate."""
        return Bracket(rate, self.missed) if met else Bracket(self.met, rate)


async def find_highest_rate(
    meets: Callable[[float], Awaitable[bool | None]], begin: float, precision: float
) -> Bracket:
    """Search for the highest rate that meets the goal, from `begin` on. Stops early if `meets` returns None."""
    bracket, rate = Bracket(0.0, None), begin
    for _ in range(MAX_TRIES):
        met = await meets(rate)
        if met is None:
            break
        bracket = bracket.narrowed(rate, met=met)
        if bracket.is_narrow(precision):
            break
        rate = bracket.next_rate()
    return bracket


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep on one server."""

    target: str
    goal: str
    bracket: Bracket

    @property
    def description(self) -> str:
        """The result as a sentence."""
        met, missed = self.bracket.met, self.bracket.missed
        if not met:
            return f"{self.target}: {self.goal} is missed even at {missed or 0:.3g} requests/s"
        upper = "" if missed is None else f", and missed at {missed:.3g}"
        return f"{self.target}: {self.goal} is met up to {met:.3g} requests/s{upper}"
