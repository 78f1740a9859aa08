"""Prices change at run time, for all servers on one database, and keep their history."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_server.metering.cost_allocation import Weights
from loramux_server.metering.ledger.calibrations import Calibration, Calibrations
from loramux_server.metering.ledger.price_history import PriceHistory, PricesChangedError
from loramux_server.metering.ledger.tables import price_lists
from loramux_server.metering.price_versions import CurrentPrices
from loramux_server.metering.pricing import Prices
from tests.helpers.usage_records import NOON, database

IN_SETTINGS = Prices(gpu_hour=Decimal(2))
SET = Prices(gpu_hour=Decimal(3))
MEASURED = Calibration(NOON, prefill_seconds=0.001, decode_seconds=0.0125, lowest=11.0, highest=14.0)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = database(tmp_path)
    yield engine
    engine.dispose()


def server(kept: sa.Engine, settings: Prices = IN_SETTINGS, machine: str = "cpu") -> CurrentPrices:
    """Start a server with these prices in its settings."""
    prices = CurrentPrices(PriceHistory(kept), Calibrations(kept, "base", machine), settings, lambda: NOON)
    prices.start()
    return prices


def history(kept: sa.Engine) -> list[tuple[str, str]]:
    return [(change.origin.value, change.version) for change in PriceHistory(kept).changes(100)][::-1]


def test_the_prices_of_the_settings_are_in_force_until_others_are_set(kept: sa.Engine) -> None:
    prices = server(kept)
    assert prices.current == IN_SETTINGS
    prices.set(SET, "key_1")
    assert prices.current == SET
    assert history(kept) == [("settings", IN_SETTINGS.version), ("set", SET.version)]
    assert prices.change is not None
    assert (prices.change.at, prices.change.actor) == (NOON, "key_1")


def test_prices_that_were_set_survive_a_restart_with_any_settings_until_they_are_reset(kept: sa.Engine) -> None:
    server(kept).set(SET, None)
    edited = Prices(gpu_hour=Decimal(9))
    prices = server(kept, edited)
    assert prices.current == SET
    prices.reset("key_1")
    assert prices.current == edited
    assert server(kept).current == IN_SETTINGS  # after a reset, the settings decide again
    assert [origin for origin, _ in history(kept)] == ["settings", "set", "reset", "settings"]


def test_a_restart_with_the_same_settings_changes_nothing(kept: sa.Engine) -> None:
    assert [server(kept).current for _ in range(3)] == [IN_SETTINGS] * 3
    assert history(kept) == [("settings", IN_SETTINGS.version)]


def test_servers_on_one_database_agree_after_they_looked_at_it(kept: sa.Engine) -> None:
    one, other = server(kept), server(kept)
    one.set(SET, None)
    assert other.current == IN_SETTINGS
    other.refresh()
    assert other.current == SET
    other.set(IN_SETTINGS, None)
    one.refresh()
    assert one.current == IN_SETTINGS


def test_a_look_that_was_overtaken_by_a_change_does_not_undo_it(kept: sa.Engine) -> None:
    prices = server(kept)
    old = PriceHistory(kept).newest()
    prices.set(SET, None)
    prices._history = type("Old", (), {"newest": lambda _: old})()
    prices.refresh()
    assert prices.current == SET


def test_of_two_that_change_the_same_version_only_one_succeeds(kept: sa.Engine) -> None:
    prices = server(kept)

    def change(price: int) -> bool:
        try:
            prices.set(Prices(gpu_hour=Decimal(10 + price)), None, expected=IN_SETTINGS.version)
        except PricesChangedError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(change, range(4))) == 1
    assert len(history(kept)) == 2


def test_each_version_keeps_its_first_use_and_what_was_set(kept: sa.Engine) -> None:
    free = Prices(gpu_hour=Decimal(0))
    prices = server(kept)
    for each in (free, SET, free):
        prices.set(each, None)
    changes = PriceHistory(kept).changes(100)
    assert [change.prices for change in changes] == [{"gpu_hour": value} for value in ("0", "3", "0", "2")]
    with kept.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(price_lists)).scalar() == 3


def test_prices_of_a_newer_release_are_reported_and_the_old_ones_stay(
    kept: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    prices = server(kept)
    other = server(kept)
    other.set(SET, None)
    with kept.begin() as connection:
        connection.execute(price_lists.update().where(price_lists.c.version == SET.version).values(prices={"new": 1}))
    for _ in range(2):
        prices.refresh()
    assert prices.current == IN_SETTINGS
    assert caplog.text.count("can't be read") == 1


def test_measured_weights_are_used_unless_the_price_list_sets_any(kept: sa.Engine) -> None:
    prices = server(kept)
    assert prices.weights == Weights(1000, 4000)
    prices.calibrate(MEASURED)
    assert prices.weights == Weights(1000, 12_500)
    assert prices.current.version == IN_SETTINGS.version
    prices.set(Prices(decode_weight=Decimal(4)), None)
    assert prices.weights == Weights(1000, 4000)


def test_measured_weights_are_kept_per_base_and_machine(kept: sa.Engine) -> None:
    server(kept, machine="a").calibrate(MEASURED)
    assert server(kept, machine="a").calibration == MEASURED
    assert server(kept, machine="b").calibration is None
