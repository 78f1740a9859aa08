"""What fine-tuning jobs cost: a row a job, over all its runs, by the prices when it was last worked on."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from loramux_adapters.errors import StoreError
from loramux_server.metering.cost_allocation import NANODOLLARS
from loramux_server.metering.ledger.repository import replace
from loramux_server.metering.ledger.tables import training_costs
from loramux_server.metering.ledger.time_range import Span
from loramux_server.metering.pricing import Prices

_SUMS = ("tokens", "seconds", "price_list_cost", "gpu_hour_cost")


@dataclass(frozen=True)
class TrainingTime:
    """What jobs took; costs in nano-dollars."""

    jobs: int
    tokens: int
    seconds: float
    price_list_cost: int
    gpu_hour_cost: int


class TrainingBook:
    """Reads and writes the costs of jobs."""

    def __init__(self, database: sa.Engine, prices: Prices) -> None:
        self._database, self._prices = database, prices

    def charge(self, job: str, adapter: str, tokens: int, seconds: float) -> None:
        """Enter what a job has taken up to now, over what was entered before; raises StoreError."""
        cost = self._prices.training_cost(tokens, seconds)
        row = {
            "job": job,
            "adapter": adapter,
            "at": time.time(),
            "tokens": tokens,
            "seconds": seconds,
            **{f"{mode}_cost": round(dollars * NANODOLLARS) for mode, dollars in cost.items()},
            "price_version": self._prices.version,
        }
        try:
            with self._database.begin() as connection:
                replace(connection, training_costs, [row])
        except sa.exc.SQLAlchemyError as error:
            raise StoreError("What a fine-tuning job cost can't be written.") from error

    def by_adapter(self) -> Mapping[str, TrainingTime]:
        """Return what was spent on each adapter, ever."""
        table = training_costs.c
        query = sa.select(table.adapter, *_summed()).group_by(table.adapter)
        with self._database.connect() as connection:
            return {row[0]: _time(row[1:]) for row in connection.execute(query)}

    def total(self, span: Span) -> TrainingTime:
        """Return what the jobs took that were last worked on in `span`."""
        table = training_costs.c
        query = sa.select(*_summed()).where(table.at >= span.since, table.at < span.until)
        with self._database.connect() as connection:
            return _time(connection.execute(query).one())


def _summed() -> list[sa.ColumnElement[Any]]:
    return [sa.func.count(), *(sa.func.coalesce(sa.func.sum(training_costs.c[name]), 0) for name in _SUMS)]


def _time(sums: Sequence[Any]) -> TrainingTime:
    jobs, tokens, seconds, price_list, gpu_hour = sums
    return TrainingTime(int(jobs), int(tokens), float(seconds), int(price_list), int(gpu_hour))
