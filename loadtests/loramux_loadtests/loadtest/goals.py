"""Goals for latency and errors, such as "ttft_p95<0.5,tpot_p95<0.1,errors<0.01"."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from loramux_adapters.evaluation.statistics import quantile
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.rows import MEASURES, RequestRow

_TAIL = 0.025
ERRORS = "errors"
"""Measure: the share of failed requests."""
_TERM = re.compile(
    r"(?:(?P<measure>[a-z_]+?)_p(?P<percent>\d{1,2}(?:\.\d+)?)|errors)\s*<\s*(?P<limit>[\d.]+(?:e-?\d+)?)"
)


@dataclass(frozen=True)
class GoalTerm:
    """One condition: a quantile of a measure, or the share of errors, is below `limit`."""

    measure: str
    q: float | None
    limit: float

    def __str__(self) -> str:
        name = self.measure if self.q is None else f"{self.measure}_p{self.q * 100:.12g}"
        return f"{name}<{self.limit:.15g}"

    def value(self, rows: Sequence[RequestRow]) -> float | None:
        """Return the value for these rows: infinity if it was not measured, None if no row has such a value."""
        if self.q is None:
            return sum(row.error is not None for row in rows) / len(rows) if rows else None
        values = sorted(value for row in rows if (value := _seconds_or_infinity(row, self.measure)) is not None)
        if not values:
            return None
        above = values[
            math.ceil(self.q * (len(values) - 1))
        ]  # the quantile lies between this value and the previous one
        return above if math.isinf(above) else quantile([min(value, above) for value in values], self.q)


@dataclass(frozen=True)
class Goal:
    """A conjunction of terms."""

    terms: tuple[GoalTerm, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.terms))

    def missed_terms(self, rows: Sequence[RequestRow]) -> list[str]:
        """Describe each missed term with the measured value. What was not measured once is missed, not met."""
        if all(row.error is not None for row in rows):
            return [f"{term}: no answer" for term in self.terms]
        found = [(term, term.value(rows)) for term in self.terms]
        return [f"{term}: {_format_value(value)}" for term, value in found if value is None or value >= term.limit]

    def met_by(self, row: RequestRow) -> bool:
        """Whether a request was answered within every time limit."""
        if row.error is not None:
            return False
        timed = ((term, _seconds_or_infinity(row, term.measure)) for term in self.terms if term.q is not None)
        return all(value is None or value < term.limit for term, value in timed)


def required_requests(goal: Goal) -> int:
    """Return how many requests are needed until their slowest one bounds each quantile of the goal, at 97.5 %."""
    quantiles = [term.q for term in goal.terms if term.q is not None and 0 < term.q < 1]
    return max([1, *(math.ceil(math.log(_TAIL) / math.log(q)) for q in quantiles)])


def parse_goal(text: str) -> Goal:
    """Parse a goal.

    Raises:
        LoadTestError: a term is invalid.
    """
    return Goal(tuple(_term(part.strip()) for part in text.split(",")))


def _term(text: str) -> GoalTerm:
    found = _TERM.fullmatch(text)
    if not found:
        raise LoadTestError(f"invalid goal '{text}'; expected a term such as ttft_p95<0.5 (seconds) or errors<0.01")
    measure, percent = found["measure"], found["percent"]
    try:
        limit = float(found["limit"])
    except ValueError:
        raise LoadTestError(f"invalid goal '{text}': '{found['limit']}' is not a number") from None
    if measure is None:
        return GoalTerm(ERRORS, None, limit)
    if measure not in MEASURES:
        raise LoadTestError(f"unknown measure '{measure}' in goal '{text}'; expected {', '.join(MEASURES)} or errors")
    return GoalTerm(measure, float(percent) / 100, limit)


def _seconds_or_infinity(row: RequestRow, measure: str) -> float | None:
    """Return a measure of an answered request; infinity if an answer that should have it lacks it (no text)."""
    if row.error is not None or (measure == "tpot" and row.output_tokens == 1):
        return None
    value = row.seconds(measure)
    return math.inf if value is None else value


def _format_value(value: float | None) -> str:
    return "not measured" if value is None or math.isinf(value) else f"{value:.4g}"
