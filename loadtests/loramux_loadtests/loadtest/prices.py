"""Cost of a load by a price list in the format of `prices` in loramux.yaml."""

from collections.abc import Iterable
from pathlib import Path

from loramux_adapters.evaluation.token_prices import PriceList
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.files import read_text
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.rows import RequestRow
from loramux_loadtests.prices import parse_price_list, request_usd


def load_usd(prices: PriceList, rows: Iterable[RequestRow]) -> float:
    """Return the cost of the tokens of these requests in US dollars."""
    return sum(request_usd(prices, None if row.route == BASE else row.route, row) for row in rows)


def load_prices(path: Path) -> PriceList:
    """Read a price list from a YAML file, at its top level or under `prices`.

    Raises:
        LoadTestError: the file can't be read or is not a price list.
    """
    text = read_text(path, 1 << 20)
    try:
        return parse_price_list(text, PriceList)
    except ValueError as error:
        raise LoadTestError(f"{path}: {error}") from error
