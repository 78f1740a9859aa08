"""Search for the highest rate at which a server meets a goal and keeps up, and its confirmation by a longer run."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import sqrt

from loramux_loadtests.loadtest.rate_trial import RateTrial

MAX_TRIES = 40
MAX_CONFIRMATIONS = 5
MIN_RATE, MAX_RATE = 1e-3, 1e5
"""Limits of the search, in requests per second."""
_BELOW_CAPACITY = 0.97
"""A rate is tried and confirmed at this share of the capacity at most: at the capacity itself, a queue grows."""

Try = Callable[[float, float], Awaitable[RateTrial | None]]
"""Runs a rate for at least the given seconds (0: as long as needed); None if no other rate can be tried."""


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

    def next_rate(self, capacity: float | None = None) -> float:
        """Return the rate to try next: double or half until both limits are known, then their geometric mean.

        Only just below a measured capacity, if that is all that is known: a server often holds such a rate.
        """
        if self.missed is None:
            return min(self.met * 2, MAX_RATE)
        if self.met:
            return sqrt(self.met * self.missed)
        return _BELOW_CAPACITY * self.missed if self.missed == capacity else max(self.missed / 2, MIN_RATE)

    def narrowed(self, rate: float, *, met: bool) -> "Bracket":
        """Return the bracket after trying one more rate."""
        return Bracket(rate, self.missed) if met else Bracket(self.met, rate)

    def limited(self, capacity: float | None) -> "Bracket":
        """Return the bracket if no rate above `capacity` can be met."""
        if capacity is None or self.missed is None or not self.met < capacity < self.missed:
            return self
        return Bracket(self.met, capacity)


def measured_capacity(trials: Sequence[RateTrial]) -> float | None:
    """Return the answers per second of the runs in which the server was overloaded; None if it never was."""
    overloads = [trial.state for trial in trials if not trial.met and trial.state.is_overloaded]
    seconds = sum(state.seconds for state in overloads)
    return sum(state.answered for state in overloads) / seconds if seconds else None


@dataclass
class RateSearch:
    """Searches with `run`, which runs one rate. `trials` are those that were run, in their order."""

    run: Try
    precision: float
    trials: list[RateTrial]

    async def highest_rate(self, begin: float) -> Bracket:
        """Search for the highest rate that is met, from `begin` on. Stops early if no other rate can be tried."""
        bracket, rate = Bracket(0.0, None), begin
        for _ in range(MAX_TRIES):
            trial = await self._try(rate, 0.0)
            if trial is None:
                break
            capacity = measured_capacity(self.trials)
            bracket = bracket.narrowed(rate, met=trial.met).limited(capacity)
            if bracket.is_narrow(self.precision) or not trial.is_conclusive:
                break
            rate = bracket.next_rate(capacity)
        return bracket

    async def confirm(self, bracket: Bracket, seconds: float) -> tuple[Bracket, RateTrial | None]:
        """Run the highest rate again for at least `seconds`; if it does not hold, the next lower one, and so on.

        Returns the bracket, narrowed by these runs, and the run that held; None if none did.
        """
        capacity = measured_capacity(self.trials)
        rate = min(bracket.met, _BELOW_CAPACITY * capacity) if capacity else bracket.met
        missed = bracket.missed
        for _ in range(MAX_CONFIRMATIONS if rate else 0):
            trial = await self._try(rate, seconds)
            if trial is None:
                break
            if trial.met:
                return Bracket(trial.held_rate, missed), trial
            rate, missed = rate / (1 + self.precision / 2), rate
        return Bracket(0.0, missed), None

    async def _try(self, rate: float, seconds: float) -> RateTrial | None:
        trial = await self.run(rate, seconds)
        if trial is not None:
            self.trials.append(trial)
        return trial


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep on one server."""

    target: str
    goal: str
    bracket: Bracket
    trials: Sequence[RateTrial] = ()
    sustained: RateTrial | None = None
    """The run that confirmed the rate."""
    was_confirmed: bool = True
    """Whether rates were run again; without, no rate is said to be sustained."""

    @property
    def description(self) -> str:
        """The result as a sentence."""
        met, missed = self.bracket.met, self.bracket.missed
        if not met and missed is None:
            return f"{self.target}: {self.goal}: the sweep ended before a rate was judged"
        if not met and self.was_confirmed and any(trial.met for trial in self.trials):
            return f"{self.target}: {self.goal}: no rate held when it was run again for longer{self._reason}"
        if not met:
            return f"{self.target}: {self.goal} is missed even at {missed:.3g} requests/s{self._reason}"
        text = f"{self.target}: {self.goal} is met up to {met:.3g} requests/s"
        if self.sustained:
            text += f", sustained for {self.sustained.state.seconds:.0f} s"
        if missed is not None:
            text += f", and missed at {missed:.3g}{self._reason}"
        return text if self.sustained else f"{text}; not run again, so not known to be sustained"

    @property
    def _reason(self) -> str:
        """Why the lowest rate that was missed was."""
        missed = [trial for trial in self.trials if not trial.met]
        lowest = min(missed, key=lambda trial: trial.rate, default=None)
        return f" ({'; '.join(lowest.reasons)})" if lowest else ""
