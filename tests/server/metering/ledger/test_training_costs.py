from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_adapters.errors import StoreError
from loramux_server.metering.fixed_costs import FixedCostSource
from loramux_server.metering.ledger.tables import training_costs
from loramux_server.metering.ledger.time_range import TimeRange
from loramux_server.metering.ledger.training_costs import TrainingCosts, TrainingTotals
from loramux_server.metering.pricing import FixedPrices, Prices
from tests.helpers.usage_records import database

PRICES = Prices.model_validate(
    {"training_tokens": 3, "gpu_hour": 3600, "storage_gb_month": 2, "adapters": {"priced": {"training": 5}}}
)
EVER = TimeRange(0, 1e12)


class GigabyteStorage:
    """StorageSizes of one gigabyte per adapter."""

    def stored_bytes(self, adapter: str) -> int:
        return 10**9


@pytest.fixture
def kept(tmp_path: Path) -> sa.Engine:
    return database(tmp_path)


def test_a_job_is_charged_by_its_tokens_and_by_its_time(kept: sa.Engine) -> None:
    costs = TrainingCosts(kept, FixedPrices(PRICES))
    costs.record("ftjob-1", "tone", tokens=2_000_000, seconds=1.5)
    assert costs.by_adapter() == {"tone": TrainingTotals(1, 2_000_000, 1.5, 6 * 10**9, 1_500_000_000)}


def test_a_resumed_job_is_one_job(kept: sa.Engine) -> None:
    costs = TrainingCosts(kept, FixedPrices(PRICES))
    costs.record("ftjob-1", "tone", tokens=100, seconds=1)
    costs.record("ftjob-1", "tone", tokens=300, seconds=3)
    costs.record("ftjob-2", "tone", tokens=10, seconds=1)
    total = costs.total(EVER)
    assert (total.jobs, total.tokens, total.seconds) == (2, 310, 4)
    assert costs.by_adapter()["tone"] == total


def test_only_jobs_updated_in_the_time_range_count(kept: sa.Engine) -> None:
    costs = TrainingCosts(kept, FixedPrices(PRICES))
    costs.record("ftjob-1", "tone", tokens=100, seconds=1)
    with kept.begin() as connection:
        connection.execute(training_costs.update().values(at=50.0))
    assert costs.total(TimeRange(50, 51)).jobs == 1
    assert costs.total(TimeRange(51, 60)) == costs.total(TimeRange(0, 50)) == TrainingTotals(0, 0, 0.0, 0, 0)


def test_the_training_cost_is_that_of_its_jobs_unless_the_price_list_has_one(kept: sa.Engine) -> None:
    costs = TrainingCosts(kept, FixedPrices(PRICES))
    for adapter in ("priced", "tone"):
        costs.record(f"ftjob-{adapter}", adapter, tokens=1_000_000, seconds=2)
    fixed_costs = FixedCostSource(FixedPrices(PRICES), GigabyteStorage(), costs).read()
    storage, dollar = 2 * 10**9, 10**9
    assert fixed_costs.fixed_cost("tone", "price_list") == storage + 3 * dollar
    assert fixed_costs.fixed_cost("tone", "gpu_hour") == storage + 2 * dollar
    assert (
        fixed_costs.fixed_cost("priced", "price_list")
        == fixed_costs.fixed_cost("priced", "gpu_hour")
        == storage + 5 * dollar
    )


def test_a_fixed_cost_is_unknown_where_the_training_has_no_price(kept: sa.Engine) -> None:
    """T5: unpriced is unknown, not zero: nothing would pay after 0 requests."""
    unpriced = TrainingCosts(kept, FixedPrices(Prices()))
    unpriced.record("ftjob-1", "tone", tokens=1_000_000, seconds=2)
    for prices in (Prices(), PRICES):
        fixed_costs = FixedCostSource(FixedPrices(prices), GigabyteStorage(), unpriced).read()
        for adapter in ("tone", "uploaded"):
            for mode in ("price_list", "gpu_hour"):
                assert fixed_costs.fixed_cost(adapter, mode) is None
    stated = FixedPrices(Prices.model_validate({"adapters": {"uploaded": {"training": 0}}}))
    known = FixedCostSource(stated, GigabyteStorage(), unpriced).read()
    assert known.fixed_cost("uploaded", "gpu_hour") == 0


def test_a_database_error_is_a_store_error(kept: sa.Engine) -> None:
    with kept.begin() as connection:
        training_costs.drop(connection)
    with pytest.raises(StoreError, match="can't be written"):
        TrainingCosts(kept, FixedPrices(PRICES)).record("ftjob-1", "tone", tokens=1, seconds=1)
