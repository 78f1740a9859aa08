from decimal import Decimal

import pytest

from loramux_server.metering.break_even import break_even


@pytest.mark.parametrize(
    ("base", "cost", "fixed_cost", "requests"),
    [(100, 60, 4000, 100), (100, 60, 4001, 101), (100, 60, 0, 0), (100, 100, 4000, None), (60, 100, 0, None)],
)
def test_an_adapter_breaks_even_when_its_savings_reach_its_fixed_cost(
    base: int, cost: int, fixed_cost: int, requests: int | None
) -> None:
    assert break_even(Decimal(base), Decimal(cost), Decimal(fixed_cost)) == (Decimal(base - cost), requests)
