"""Distributions are small, mergeable, and accurate to 1 %."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_server.metering.ledger.distributions import Distributions

MEASURED = st.lists(st.floats(1e-5, 1e12), min_size=1, max_size=200)


@given(MEASURED, st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_right_to_one_percent(values: list[float], share: float) -> None:
    found = Distributions.of({"duration": values}).measure("duration").quantile(share)
    assert found == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=0.0101)


@given(MEASURED, MEASURED)
def test_a_sum_equals_the_distribution_of_all_values(some: list[float], others: list[float]) -> None:
    apart = Distributions.of({"queue": some, "duration": others})
    packed = Distributions.unpack([apart.pack(), Distributions.of({"queue": others}).pack()])
    for total in (packed, apart + Distributions.of({"queue": others})):
        together = Distributions.of({"queue": some + others, "duration": others})
        assert (total.keys == together.keys).all()
        assert (total.counts == together.counts).all()


def test_measures_are_separate_and_none_is_left_out() -> None:
    both = Distributions.of({"first_token": [None, 2.0], "gpu_hour_cost": [5.0, 5.0]})
    assert (both.measure("first_token").count, both.measure("gpu_hour_cost").count) == (1, 2)
    assert both.measure("queue").quantile(0.5) is None


def test_an_empty_distribution_is_valid() -> None:
    nothing = Distributions.of({})
    assert nothing.pack() == b""
    assert Distributions.unpack([]).measure("duration").count == 0
    assert (nothing + Distributions.of({"queue": [1.0]})).measure("queue").count == 1


def test_zero_stays_zero() -> None:
    assert Distributions.of({"queue": [0.0, 0.0]}).measure("queue").quantile(0.99) == 0.0


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.floats(0, 1e9), st.floats(0, 1e9)), max_size=60))
def test_groups_of_rows_have_the_distributions_of_their_rows(rows: list[tuple[int, float | None, float]]) -> None:
    numbers, first, queue = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    values = {"first_token": np.array(first, float), "queue": np.array(queue, float)}
    found = Distributions.grouped(np.array(numbers, np.int64), values, 4)
    assert len(found) == 4
    for group, distributions in enumerate(found):
        own = [row for row in rows if row[0] == group]
        alone = Distributions.of({"first_token": [row[1] for row in own], "queue": [row[2] for row in own]})
        assert distributions.pack() == alone.pack()
