"""Goals such as "ttft_p95<0.5,tpot_p95<0.1,errors<0.01": what a server must keep to."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from loramux_adapters.evaluation.statistics import quantile
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.rows import MEASURES, Row

ERRORS = "errors"
"""The share of requests that failed."""
_TERM = re.compile(
    r"(?:(?P<measure>[a-z_]+?)_p(?P<percent>\d{1,2}(?:\.\d+)?)|errors)\s*<\s*(?P<limit>[\d.]+(?:e-?\d+)?)"
)


@dataclass(frozen=True)
class Term:
    """One part of a goal: a quantile of a measure, or the share of errors, stays below `limit`."""

    measure: str
    q: float | None
    limit: float

    def __str__(self) -> str:
        name = self.measure if self.q is None else f"{self.measure}_p{self.q * 100:.12g}"
        return f"{name}<{self.limit:.15g}"

    def value(self, rows: Sequence[Row]) -> float | None:
        """What these rows have, infinite where that was not measured; None where there is nothing to measure."""
        if self.q is None:
            return sum(row.error is not None for row in rows) / len(rows) if rows else None
        values = sorted(value for row in rows if (value := _due(row, self.measure)) is not None)
        if not values:
            return None
        above = values[math.ceil(self.q * (len(values) - 1))]  # between this one and the one before is the quantile
        return above if math.isinf(above) else quantile([min(value, above) for value in values], self.q)


@dataclass(frozen=True)
class Goal:
    """All of whose terms must be met."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.terms))

    def missed(self, rows: Sequence[Row]) -> list[str]:
        """The terms that these rows miss, with what they have instead; rows without an answer miss all."""
        if all(row.error is not None for row in rows):
            return [f"{term}: no answer" for term in self.terms]
        found = [(term, term.value(rows)) for term in self.terms]
        return [f"{term}: {_told(value)}" for term, value in found if value is not None and value >= term.limit]

    def met_by(self, row: Row) -> bool:
        """Whether one request met the goal: it was answered, and within each limit of a time."""
        if row.error is not None:
            return False
        timed = ((term, _due(row, term.measure)) for term in self.terms if term.q is not None)
        return all(value is None or value < term.limit for term, value in timed)


def parse_goal(text: str) -> Goal:
    """Read a goal; LoadTestError with the part that is wrong."""
    return Goal(tuple(_term(part.strip()) for part in text.split(",")))


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    if not found:
        raise LoadTestError(f"'{text}' is no goal: write ttft_p95<0.5 (seconds), tpot_p50<0.05 or errors<0.01")
    measure, percent = found["measure"], found["percent"]
    try:
        limit = float(found["limit"])
    except ValueError:
        raise LoadTestError(f"'{text}' is no goal: '{found['limit']}' is no number") from None
    if measure is None:
        return Term(ERRORS, None, limit)
    if measure not in MEASURES:
        raise LoadTestError(f"'{text}' is no goal: there is {', '.join(MEASURES)} and errors, not '{measure}'")
    return Term(measure, float(percent) / 100, limit)


def _due(row: Row, measure: str) -> float | None:
    """A time that an answer must have: infinite if it lacks it, as one without text lacks its first piece."""
    if row.error is not None or (measure == "tpot" and row.output_tokens == 1):
        return None
    value = row.measured(measure)
    return math.inf if value is None else value


def _told(value: float) -> str:
    return "not measured" if math.isinf(value) else f"{value:.4g}"
