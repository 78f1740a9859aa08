"""Costs of fine-tuning jobs: one row per job, over all its runs, at the prices of its last update."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from loramux_adapters.errors import StoreError
from loramux_adapters.finetuning.jobs.tables import jobs
from loramux_server.metering.cost_allocation import NANODOLLARS
from loramux_server.metering.ledger.repository import upsert
from loramux_server.metering.ledger.tables import training_costs
from loramux_server.metering.ledger.time_range import TimeRange
from loramux_server.metering.pricing import PriceSource

COST_MODES = ("price_list", "gpu_hour")
_SUMMED_COLUMNS = (
    "tokens", "seconds", "price_list_cost", "gpu_hour_cost", "price_list_unpriced", "gpu_hour_unpriced",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingTotals:
    """Totals of fine-tuning jobs; costs in nano-dollars."""

    jobs: int
    tokens: int
    seconds: float
    price_list_cost: int
    gpu_hour_cost: int
    price_list_unpriced: int = 0
    """Jobs whose cost is unknown, because no price was set; they are not in `price_list_cost`."""
    gpu_hour_unpriced: int = 0


class TrainingCosts:
    """Reads and writes the costs of fine-tuning jobs."""

    def __init__(self, database: sa.Engine, prices: PriceSource) -> None:
        self._database, self._prices = database, prices

    def record(self, job: str, adapter: str, tokens: int, seconds: float) -> None:
        """Save the cost of a job so far, replacing earlier values.

        Raises:
            StoreError: the database could not be written.
        """
        prices = self._prices.current
        cost = prices.training_cost(tokens, seconds)
        row = {
            "job": job,
            "adapter": adapter,
            "at": time.time(),
            "tokens": tokens,
            "seconds": seconds,
            **{f"{mode}_cost": round((dollars or 0) * NANODOLLARS) for mode, dollars in cost.items()},
            **{f"{mode}_unpriced": int(dollars is None) for mode, dollars in cost.items()},
            "price_version": prices.version,
        }
        try:
            with self._database.begin() as connection:
                upsert(connection, training_costs, [row])
        except sa.exc.SQLAlchemyError as error:
            raise StoreError("The cost of a fine-tuning job can't be written to the database.") from error

    def by_adapter(self) -> Mapping[str, TrainingTotals]:
        """Return the totals of all jobs of each adapter."""
        table = training_costs.c
        query = sa.select(table.adapter, *_sum_columns()).group_by(table.adapter)
        with self._database.connect() as connection:
            return {row[0]: _totals(row[1:]) for row in connection.execute(query)}

    def of_jobs(self, jobs: Sequence[str]) -> Mapping[str, dict[str, float | None]]:
        """Return the recorded cost of each of these jobs that has one, in dollars by cost mode; None if unpriced."""
        table = training_costs.c
        columns = [table[f"{mode}_{figure}"] for mode in COST_MODES for figure in ("cost", "unpriced")]
        query = sa.select(table.job, *columns).where(table.job.in_(jobs))
        with self._database.connect() as connection:
            rows = connection.execute(query).all()
        return {
            job: {
                mode: None if unpriced else cost / NANODOLLARS
                for mode, cost, unpriced in zip(COST_MODES, figures[::2], figures[1::2], strict=True)
            }
            for job, *figures in rows
        }

    def total(self, time_range: TimeRange, project: str | None = None) -> TrainingTotals:
        """Return the totals of the jobs last updated in `time_range`: of those of a project, or all."""
        table = training_costs.c
        query = sa.select(*_sum_columns()).where(table.at >= time_range.since, table.at < time_range.until)
        if project is not None:
            query = query.where(table.job.in_(sa.select(jobs.c.id).where(jobs.c.project == project)))
        with self._database.connect() as connection:
            return _totals(connection.execute(query).one())


def _sum_columns() -> list[sa.ColumnElement[Any]]:
    return [sa.func.count(), *(sa.func.coalesce(sa.func.sum(training_costs.c[name]), 0) for name in _SUMMED_COLUMNS)]


def _totals(sums: Sequence[Any]) -> TrainingTotals:
    jobs, tokens, seconds, *costs = sums
    return TrainingTotals(int(jobs), int(tokens), float(seconds), *map(int, costs))
