"""Reading of price lists, and the cost of requests by them."""

from typing import Protocol, TypeVar

import yaml
from pydantic import ValidationError

from loramux_adapters.evaluation.token_prices import PriceList, TokenPrices

PriceListT = TypeVar("PriceListT", bound=PriceList)


class TokenCounts(Protocol):
    """The token counts of a request; `input_tokens` include the cached ones."""

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt."""

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the server found in its prefix cache."""

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer."""


def parse_price_list(text: str, model: type[PriceListT]) -> PriceListT:
    """Read a price list from YAML, at its top level or under `prices`.

    Raises:
        ValueError: `text` is not YAML, or not a price list.
    """
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"invalid YAML: {error}") from error
    try:
        return model.model_validate(data.get("prices", data) if isinstance(data, dict) else data)
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from error


def _first_problem(error: ValidationError) -> str:
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    path = ".".join(map(str, first["loc"]))
    return f"{path}: {first['msg']}" if path else first["msg"]


def token_usd(prices: TokenPrices, request: TokenCounts) -> float:
    """Return the cost of a request by these token prices; a failed one costs the tokens that were counted."""
    return float(prices.nanodollars(request.input_tokens, request.cached_tokens, request.output_tokens)) / 1e9


def request_usd(prices: PriceList, model: str | None, request: TokenCounts) -> float:
    """Return the cost of a request to an adapter (NAME or NAME@VERSION), or to the base where `model` is None."""
    adapter = None if model is None else model.partition("@")[0]
    counts = request.input_tokens, request.cached_tokens, request.output_tokens
    return float(prices.token_nanodollars(adapter, *counts)) / 1e9
