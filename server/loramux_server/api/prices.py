"""`/admin/prices`: the prices that are in force, changes at run time, and their history."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin
from loramux_server.errors import InvalidRequest, PricesChanged
from loramux_server.metering.cost_allocation import WEIGHT_UNITS
from loramux_server.metering.ledger.price_history import PriceChange, PricesChangedError
from loramux_server.metering.ledger.time_range import format_time
from loramux_server.metering.price_versions import CurrentPrices
from loramux_server.metering.pricing import Prices

MAX_PRICES_BYTES = 1_000_000
_SetPrices = Annotated[
    Mapping[str, Any], Field(description="The prices that are set, in the format of `prices` in loramux.yaml.")
]


class NewPrices(BaseModel):
    """A whole price list."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prices: dict[str, Any]
    replaces: Annotated[
        str | None, Field(max_length=12, description="The version that must be in force; null for any.")
    ] = None


class Weights(BaseModel):
    """The weights by which requests share the cost of the engine's time."""

    prefill: Annotated[float, Field(description="Of a prompt token that is computed, or a draft token.")]
    decode: Annotated[float, Field(description="Of a decoding step.")]
    origin: Annotated[str, Field(description="`prices`, `measured` or `default`.")]
    measured_at: Annotated[str | None, Field(description="ISO 8601, UTC.")] = None
    lowest: Annotated[float | None, Field(description="Lowest decode weight between the measurement's rounds.")] = None
    highest: float | None = None

    @classmethod
    def of(cls, source: CurrentPrices) -> Self:
        """Return the weights in force, and where they are from."""
        used, measured = source.weights, source.calibration
        prefill, decode = used.prefill / WEIGHT_UNITS, used.decode / WEIGHT_UNITS
        if not source.current.has_default_weights:
            return cls(prefill=prefill, decode=decode, origin="prices")
        if measured is None:
            return cls(prefill=prefill, decode=decode, origin="default")
        return cls(
            prefill=prefill,
            decode=decode,
            origin="measured",
            measured_at=format_time(measured.at),
            lowest=measured.lowest,
            highest=measured.highest,
        )


class Change(BaseModel):
    """A price list that came into force."""

    version: str
    since: Annotated[str | None, Field(description="ISO 8601, UTC.")]
    origin: Annotated[str, Field(description="`settings`, `set` (at run time) or `reset` (to the settings).")]
    by: Annotated[str | None, Field(description="Id of the API key that changed them; null if a start of the server.")]
    prices: _SetPrices

    @classmethod
    def of(cls, change: PriceChange) -> Self:
        """Return the schema of a change."""
        return cls(
            version=change.version,
            since=format_time(change.at),
            origin=change.origin,
            by=change.actor,
            prices=change.prices,
        )


class PricesInForce(Change):
    """The price list in force, with the weights."""

    weights: Weights

    @classmethod
    def now(cls, source: CurrentPrices) -> Self:
        """Return what is in force now."""
        change = source.change
        return cls(
            version=source.current.version,
            since=format_time(change.at) if change else None,
            origin=change.origin if change else "settings",
            by=change.actor if change else None,
            prices=source.current.model_dump(mode="json", exclude_unset=True),
            weights=Weights.of(source),
        )


class History(BaseModel):
    """Changes, newest first."""

    changes: Sequence[Change]


def prices_router(source: CurrentPrices) -> APIRouter:
    """Return /admin/prices."""
    router = APIRouter(prefix="/admin/prices", tags=["prices"], responses=error_responses())

    @router.get("")
    async def show_prices(_: Admin) -> PricesInForce:
        """Show the prices in force."""
        return PricesInForce.now(source)

    @router.put("", responses=error_responses(409))
    async def set_prices(new: NewPrices, by: Admin) -> PricesInForce:
        """Put a price list into force, until it is replaced or reset, on all servers that share the database.

        Engine time is charged at the price of its moment, tokens at those of the request's end. What is not set has no
        price, and a request that it would apply to has an unknown cost.
        """
        prices = _parse(new.prices)
        try:
            await asyncio.to_thread(source.set, prices, by.key_id, new.replaces)
        except PricesChangedError as error:
            raise PricesChanged("The prices were changed meanwhile: read them again.", param="replaces") from error
        return PricesInForce.now(source)

    @router.delete("")
    async def reset_prices(by: Admin) -> PricesInForce:
        """Return to the prices of the server's settings."""
        await asyncio.to_thread(source.reset, by.key_id)
        return PricesInForce.now(source)

    @router.get("/history")
    async def show_history(_: Admin, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> History:
        """Show the price lists that were in force, newest first."""
        return History(changes=[Change.of(change) for change in await asyncio.to_thread(source.history, limit)])

    return router


def _parse(values: dict[str, Any]) -> Prices:
    if len(json.dumps(values)) > MAX_PRICES_BYTES:
        raise InvalidRequest(f"The price list has more than {MAX_PRICES_BYTES:,} bytes.", param="prices")
    try:
        return Prices.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(["prices", *(str(part) for part in first["loc"])])[:200]
        raise InvalidRequest(f"`{field}`: {first['msg']}.", param=field) from error
