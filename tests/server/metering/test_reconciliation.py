"""What requests cost adds up to the nano-dollar, through price changes, restarts and spells without prices."""

from collections import Counter
from pathlib import Path

import pytest

from loramux_server.metering.ledger.labels import GroupBy
from loramux_server.metering.ledger.reader import LedgerReader, UsageTotals
from loramux_server.metering.ledger.time_range import TimeRange
from tests.helpers.reconciliation import Simulation, sums_by
from tests.helpers.usage_records import NOON, database

POSITIONS = {
    GroupBy.ROUTE: (0,),
    GroupBy.ADAPTER: (0, 1),
    GroupBy.VERSION: (0, 1, 2),
    GroupBy.KEY: (3,),
    GroupBy.DAY: (4,),
    GroupBy.HOUR: (5,),
}
"""The positions of a grouping's values in the labels of the second account."""


def totals(simulation: Simulation, by: GroupBy) -> list[UsageTotals]:
    ever = TimeRange(NOON - 3600, NOON + simulation.now / 1e9 + 7200)
    return list(LedgerReader(simulation.database).usage(ever, by).values())


@pytest.mark.parametrize("count", [4_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_simulated_requests_reconcile_to_the_nanodollar(tmp_path: Path, count: int) -> None:
    simulation = Simulation(database(tmp_path), count)
    simulation.run()
    # Each life of a server rounds the cost of its busy time, and that of its idle time, down to a nano-dollar.
    rest = simulation.machine_cost - simulation.shares - simulation.idle - simulation.unallocated
    assert 0 <= rest < 2 * simulation.lives
    assert simulation.lives == 10
    account = simulation.account
    assert all(
        sum(getattr(account, name).values()) for name in ("price_list_unpriced", "gpu_hour_unpriced", "price_list")
    )
    for by, positions in POSITIONS.items():
        found = totals(simulation, by)
        for mode in ("price_list", "gpu_hour"):
            expected = sums_by(getattr(account, mode), *positions)
            unpriced = sums_by(getattr(account, f"{mode}_unpriced"), *positions)
            assert Counter(group.sums[f"{mode}_cost"] for group in found) == Counter(expected.values())
            assert Counter(group.unpriced[mode] for group in found) == Counter(unpriced.values())
        assert Counter(group.requests for group in found) == Counter(sums_by(account.requests, *positions).values())
        assert sum(group.requests for group in found) == count
    simulation.database.dispose()


def test_the_simulation_notices_a_nanodollar_that_is_missing(tmp_path: Path) -> None:
    simulation = Simulation(database(tmp_path), 200)
    simulation.run()
    label = next(label for label, cost in simulation.account.price_list.items() if cost)
    simulation.account.price_list[label] += 1
    assert sum(group.sums["price_list_cost"] for group in totals(simulation, GroupBy.ROUTE)) == (
        sum(simulation.account.price_list.values()) - 1
    )
    simulation.database.dispose()
