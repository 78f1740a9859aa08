"""The highest rate at which a server meets a goal."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import sqrt

TRIES_AT_MOST = 40
LOWEST, HIGHEST = 1e-3, 1e5
"""Rates beyond which nobody looks, in requests a second."""


@dataclass(frozen=True)
class Bracket:
    """A rate that met the goal, 0 if none did, and a higher one that missed it, None if none did."""

    met: float
    missed: float | None

    def is_narrow(self, precision: float) -> bool:
        """Whether the answer is known to within `precision` of itself, 0.1 for a tenth."""
        if self.missed is None:
            return self.met >= HIGHEST
        return self.missed <= LOWEST or 0 < self.missed / (1 + precision) <= self.met

    def next(self) -> float:
        """The rate to try now: double or half until both ends are there, then their geometric middle."""
        if self.missed is None:
            return min(self.met * 2, HIGHEST)
        return sqrt(self.met * self.missed) if self.met else max(self.missed / 2, LOWEST)

    def after(self, rate: float, *, met: bool) -> "Bracket":
        """What is known after one more try."""
        return Bracket(rate, self.missed) if met else Bracket(self.met, rate)


async def highest_rate(meets: Callable[[float], Awaitable[bool | None]], begin: float, precision: float) -> Bracket:
    """Look for the highest rate that meets the goal, beginning with `begin`, until `meets` can't tell (None)."""
    bracket, rate = Bracket(0.0, None), begin
    for _ in range(TRIES_AT_MOST):
        met = await meets(rate)
        if met is None:
            break
        bracket = bracket.after(rate, met=met)
        if bracket.is_narrow(precision):
            break
        rate = bracket.next()
    return bracket


@dataclass(frozen=True)
class Sweep:
    """What was found for one server."""

    target: str
    goal: str
    bracket: Bracket

    @property
    def told(self) -> str:
        """The answer in words."""
        met, missed = self.bracket.met, self.bracket.missed
        if not met:
            return f"{self.target}: {self.goal} is missed even at {missed or 0:.3g} requests/s"
        upper = "" if missed is None else f", and missed at {missed:.3g}"
        return f"{self.target}: {self.goal} is met up to {met:.3g} requests/s{upper}"
