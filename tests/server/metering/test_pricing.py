"""Costs of tokens by the price list."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from loramux_adapters.evaluation.token_prices import AdapterPrices, TokenPrices
from loramux_server.metering.pricing import Prices

BASE = TokenPrices(input=Decimal("0.15"), cached=Decimal("0.075"), output=Decimal("0.60"))
PRICES = Prices(
    base=BASE,
    adapter=AdapterPrices(multiplier=Decimal(2)),
    adapters={"own": AdapterPrices(tokens=TokenPrices(input=Decimal(1)), training=Decimal(12))},
)


def test_tokens_cost_what_the_list_says_to_the_nanodollar() -> None:
    assert (
        PRICES.token_cost(None, input_tokens=1000, cached_tokens=400, output_tokens=100)
        == 600 * 150 + 400 * 75 + 100 * 600
    )


def test_an_adapter_has_the_base_s_prices_times_its_multiplier_or_its_own() -> None:
    assert PRICES.token_cost("any", 1000, 0, 0) == 300_000
    assert PRICES.token_cost("own", 1000, 1000, 7) == 1_000_000


def test_cached_tokens_cost_as_much_as_input_by_default() -> None:
    assert Prices(base=TokenPrices(input=Decimal(1))).token_cost(None, 10, 10, 0) == 10_000


def test_fractions_of_a_nanodollar_are_rounded_once_per_request() -> None:
    prices = Prices(base=TokenPrices(input=Decimal("0.0375")))
    assert prices.token_cost(None, 2, 0, 0) == 75
    assert prices.token_cost(None, 3, 0, 0) == 112


def test_nothing_has_a_price_by_default_and_what_it_costs_is_unknown() -> None:
    """T5: unpriced is unknown, not zero."""
    assert Prices().token_cost("any", 10**9, 0, 10**9) is None
    assert Prices().nanodollars_per_hour is None
    assert Prices().stated_training_cost("any") is None
    assert Prices().training_cost(10**6, 3600) == {"price_list": None, "gpu_hour": None}
    assert not Prices().has_token_prices
    assert not Prices().has_gpu_hour_price


def test_a_price_of_zero_that_is_set_is_a_price() -> None:
    free = Prices.model_validate({"base": {"input": 0}, "gpu_hour": 0, "training_tokens": 0})
    assert free.token_cost("any", 10**9, 0, 10**9) == free.nanodollars_per_hour == 0
    assert free.training_cost(10**6, 3600) == {"price_list": 0, "gpu_hour": 0}
    assert free.has_token_prices
    assert free.has_gpu_hour_price
    assert free.version != Prices().version


def test_an_adapter_with_prices_of_its_own_is_priced_where_the_base_is_not() -> None:
    prices = Prices.model_validate({"adapters": {"own": {"tokens": {"input": 1}}, "twice": {"multiplier": 2}}})
    assert [prices.token_cost(route, 1, 0, 0) for route in ("own", "twice", "other", None)] == [1000, None, None, None]
    assert prices.has_token_prices


def test_a_price_list_survives_the_database_with_what_is_set_and_what_is_not() -> None:
    for prices in (Prices(), PRICES, Prices.model_validate({"gpu_hour": 0, "base": {"output": 0}})):
        again = Prices.model_validate_json(prices.model_dump_json(exclude_unset=True))
        assert (again, again.version) == (prices, prices.version)
        assert again.has_gpu_hour_price == prices.has_gpu_hour_price


def test_the_version_of_a_price_list_is_that_of_earlier_releases() -> None:
    assert Prices.model_validate({"base": {"input": 1, "output": 2}, "gpu_hour": 3600}).version == "7f64d860f066"


def test_all_gpus_cost() -> None:
    assert Prices(gpu_hour=Decimal("2.5"), gpus=4).nanodollars_per_hour == 10_000_000_000


def test_the_version_is_a_hash_of_the_prices() -> None:
    assert Prices().version == Prices().version
    assert Prices().version != PRICES.version
    assert len(PRICES.version) == 12


@pytest.mark.parametrize("value", [-1, "nan", "inf", "free", 10**9])
def test_an_invalid_price_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        Prices.model_validate({"base": {"input": value}})


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError):
        Prices.model_validate({"decode_weight": 0})
