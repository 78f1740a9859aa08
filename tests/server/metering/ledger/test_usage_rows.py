"""Totals of rows by hour and group, which are exact."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loramux_server.metering.ledger.distributions import MEASURES, Distributions
from loramux_server.metering.ledger.labels import UsageGroup
from loramux_server.metering.ledger.usage_rows import SUMMED_COLUMNS, TOTALED_COLUMNS, totals_by_hour, usage_row
from loramux_server.metering.usage_record import Charge, Outcome, Route, RunStats
from tests.helpers.usage_records import HOUR, NOON, TONE, record

COSTS = st.none() | st.integers(0, 10**15)
ROWS = st.lists(
    st.builds(
        lambda after, route, outcome, tokens, costs, is_cold: usage_row(
            record(
                NOON + after,
                route=route,
                outcome=outcome,
                stats=RunStats(input_tokens=tokens, output_tokens=tokens // 2, first_token=0.5, cold=is_cold),
            ),
            Charge(costs[0], costs[1], "0123456789ab"),
        ),
        st.floats(0, 3 * HOUR),
        st.sampled_from([TONE, Route(), None]),
        st.sampled_from(Outcome),
        st.integers(0, 10**6),
        st.tuples(COSTS, COSTS),
        st.booleans(),
    ),
    max_size=30,
)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in TOTALED_COLUMNS}


def measured(row: Mapping[str, Any], name: str) -> float | None:
    """Return a measure as the distributions have it: None where a cost is unknown."""
    return None if row.get(f"{name.removesuffix('_cost')}_unpriced") else row[name]


@given(ROWS)
def test_totals_are_the_exact_sums_of_each_hour_and_group(rows: list[dict[str, Any]]) -> None:
    found = totals_by_hour(columns_of(rows))
    assert sum(totals.requests for totals in found.values()) == len(rows)
    for (hour, group), totals in found.items():
        own = [
            row
            for row in rows
            if row["ended_at"] // HOUR == hour and UsageGroup(*(str(row[name]) for name in UsageGroup._fields)) == group
        ]
        assert totals.requests == len(own)
        assert {name: getattr(totals, name) for name in SUMMED_COLUMNS} == {
            name: sum(int(row[name]) for row in own) for name in SUMMED_COLUMNS
        }
        answered = own if group.outcome == Outcome.OK else []
        alone = Distributions.of({name: [measured(row, name) for row in answered] for name in MEASURES})
        assert totals.distributions.pack() == alone.pack()
        assert {type(value) for value in group} == {str}


def test_no_rows_have_no_totals() -> None:
    assert totals_by_hour(columns_of([])) == {}
