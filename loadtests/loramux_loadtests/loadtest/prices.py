"""What requests cost by a price list, in the form of the `prices` of loramux.yaml."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.files import first_reason, read_text
from loramux_loadtests.loadtest.mix import BASE
from loramux_loadtests.loadtest.rows import Row
from loramux_loadtests.prices import Dollars, TokenPrices


class AdapterPrices(BaseModel):
    """The base's prices `multiplier` times, or `tokens` of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    multiplier: Dollars = 1.0
    tokens: TokenPrices | None = None
    training: Any = None
    """Known, for the server's list to be read, but no cost of a load."""


class PriceList(BaseModel):
    """A server's prices. A name that its list does not have either is refused: misspelt, it would make tokens free."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: TokenPrices = TokenPrices()
    adapter: AdapterPrices = AdapterPrices()
    adapters: Mapping[str, AdapterPrices] = {}
    gpu_hour: Dollars = 0.0
    gpus: Annotated[int, Field(ge=1, le=1024)] = 1
    prefill_weight: Any = None
    """This and what follows are known as an adapter's `training` is."""
    decode_weight: Any = None
    storage_gb_month: Any = None
    training_tokens: Any = None

    def usd(self, rows: Iterable[Row]) -> float:
        """What these requests cost by their tokens."""
        return sum(self._of(row.route) * self._tokens(row.route).usd(row) for row in rows)

    def machine_usd(self, seconds: float) -> float:
        """What the machine costs in this time, whatever it does."""
        return self.gpu_hour * self.gpus * seconds / 3600

    def _adapter(self, route: str) -> AdapterPrices:
        return self.adapters.get(route.partition("@")[0], self.adapter)

    def _tokens(self, route: str) -> TokenPrices:
        return self.base if route == BASE else self._adapter(route).tokens or self.base

    def _of(self, route: str) -> float:
        own = route == BASE or self._adapter(route).tokens
        return 1.0 if own else self._adapter(route).multiplier


def load_prices(path: Path) -> PriceList:
    """Read a price list: a YAML file, itself or under `prices`. LoadTestError says what is wrong with it."""
    try:
        data = yaml.safe_load(read_text(path, 1 << 20))
        return PriceList.model_validate(data.get("prices", data) if isinstance(data, dict) else data)
    except (yaml.YAMLError, RecursionError) as error:
        raise LoadTestError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise LoadTestError(f"{path}: {first_reason(error)}") from error
