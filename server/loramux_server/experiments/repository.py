"""Reads and writes the tables of experiments."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from loramux_adapters.errors import StoreError
from loramux_server.experiments.errors import ExperimentNotFound, ExperimentRunning
from loramux_server.experiments.models import Experiment, ExperimentConfig, Observation, Outcome, State
from loramux_server.experiments.tables import experiments, feedback, observations

MAX_LISTED = 1000
_OBSERVED = [name for name in Observation.__dataclass_fields__ if name not in ("outcome", "score")]


class ExperimentRepository:
    """The experiments in a database. Every method raises StoreError if the database fails."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def add(self, experiment: Experiment) -> None:
        """Insert a running experiment.

        Raises:
            ExperimentRunning: another one is running for this adapter.
        """
        row = {
            "id": experiment.id,
            "adapter": experiment.config.adapter,
            "running": experiment.config.adapter,
            "state": experiment.state,
            "config": experiment.config.model_dump(mode="json"),
            "actor": experiment.actor,
            "created_at": experiment.created_at,
            "counters": dict(experiment.counters),
        }
        with _store_errors():
            try:
                with self._database.begin() as connection:
                    connection.execute(experiments.insert().values(row))
            except IntegrityError as error:
                raise ExperimentRunning(
                    f"An experiment is running for {experiment.config.adapter}: stop it first."
                ) from error

    def end(
        self, experiment_id: str, state: State, reason: str, at: float, counters: Mapping[str, int], result: Any
    ) -> bool:
        """End a running experiment; return whether it was running."""
        values = {
            "state": state, "running": None, "reason": reason, "ended_at": at, "counters": dict(counters),
            "result": result,
        }  # fmt: skip
        is_running = (experiments.c.id == experiment_id) & (experiments.c.state == State.RUNNING)
        with _store_errors(), self._database.begin() as connection:
            return connection.execute(experiments.update().where(is_running).values(values)).rowcount == 1

    def get(self, experiment_id: str) -> Experiment:
        """Return an experiment.

        Raises:
            ExperimentNotFound: there is none with this id.
        """
        # PostgreSQL refuses texts with a NUL character.
        found = self._select(experiments.c.id == experiment_id) if experiment_id.isprintable() else []
        if not found:
            raise ExperimentNotFound(f"There is no experiment {experiment_id[:80]}.")
        return found[0]

    def running(self) -> list[Experiment]:
        """Return the running experiments."""
        return self._select(experiments.c.running.is_not(None))

    def ended(self) -> list[Experiment]:
        """Return the experiments that ended with a result, newest first."""
        return self._select(experiments.c.running.is_(None) & experiments.c.result.is_not(None))

    def newest(self, adapter: str | None = None, limit: int = 100) -> list[Experiment]:
        """Return experiments, newest first."""
        return self._select(sa.true() if adapter is None else experiments.c.adapter == adapter, limit)

    def add_observations(self, experiment_id: str, rows: Sequence[Observation], counters: Mapping[str, int]) -> None:
        """Insert requests of an experiment, and update its counters."""
        values = [asdict(row) | {"experiment": experiment_id} for row in rows]
        with _store_errors(), self._database.begin() as connection:
            if values:
                connection.execute(observations.insert(), values)
            changed = experiments.update().where(experiments.c.id == experiment_id)
            connection.execute(changed.values(counters=dict(counters)))

    def observations(self, experiment_id: str, *, with_feedback: bool) -> list[Observation]:
        """Return the requests of an experiment in order; with feedback, its score is that of an answered request."""
        query = sa.select(observations, feedback.c.score.label("feedback")).select_from(
            observations.outerjoin(
                feedback,
                (feedback.c.request_id == observations.c.request_id)
                & (feedback.c.key_id == observations.c.key_id)
                & (feedback.c.experiment == observations.c.experiment),
            )
        )
        query = query.where(observations.c.experiment == experiment_id).order_by(observations.c.id)
        with _store_errors(), self._database.connect() as connection:
            return [_observation(row, with_feedback=with_feedback) for row in connection.execute(query).mappings()]

    def delete_old_observations(self, ended_before: float) -> None:
        """Delete the requests of experiments that ended before this time; their results stay."""
        old = sa.select(experiments.c.id).where(experiments.c.ended_at < ended_before)
        with _store_errors(), self._database.begin() as connection:
            connection.execute(observations.delete().where(observations.c.experiment.in_(old)))

    def _select(self, where: sa.ColumnElement[bool], limit: int = MAX_LISTED) -> list[Experiment]:
        query = sa.select(experiments).where(where).order_by(experiments.c.created_at.desc()).limit(limit)
        with _store_errors(), self._database.connect() as connection:
            return [_experiment(row) for row in connection.execute(query).mappings()]


def _experiment(row: sa.RowMapping) -> Experiment:
    values = {key: value for key, value in row.items() if key not in ("adapter", "running", "config", "state")}
    config = ExperimentConfig.model_validate(row["config"])
    return Experiment(config=config, state=State(row["state"]), **values)


def _observation(row: sa.RowMapping, *, with_feedback: bool) -> Observation:
    outcome = Outcome(row["outcome"])
    said = row["feedback"] if with_feedback and outcome is Outcome.ANSWERED else None
    score = row["score"] if said is None else said
    return Observation(outcome=outcome, score=score, **{name: row[name] for name in _OBSERVED})


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError("The experiments can't be read or written.") from error
