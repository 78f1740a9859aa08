"""Reads and writes the users' feedback."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from loramux_adapters.errors import StoreError
from loramux_server.experiments.tables import feedback, observations
from loramux_server.metering.ledger.tables import usage_records


class AnsweredRequest(NamedTuple):
    """A request that may get feedback: where it ran, and the id of its experiment, or an empty text."""

    route: str
    adapter: str
    version: str
    experiment: str


class StoredFeedback(NamedTuple):
    """Feedback on a request, with the request's route and experiment."""

    key_id: str
    request_id: str
    at: float
    score: float
    label: str | None
    route: str
    adapter: str
    version: str
    experiment: str


class RouteFeedback(NamedTuple):
    """The feedback on the requests of one route."""

    route: str
    adapter: str
    version: str
    requests: int
    mean: float


class FeedbackRepository:
    """The feedback in a database. Every method raises StoreError if the database fails."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def find_request(self, key_id: str, request_id: str) -> AnsweredRequest | None:
        """Look a request up in the ledger, as after a restart."""
        columns = usage_records.c
        query = (
            sa.select(columns.route, columns.adapter, columns.version)
            .where(columns.request_id == request_id, columns.key_id == key_id, columns.route != "none")
            .order_by(columns.id.desc())
            .limit(1)
        )
        experiment = sa.select(observations.c.experiment).where(
            observations.c.request_id == request_id, observations.c.key_id == key_id
        )
        try:
            with self._database.connect() as connection:
                row = connection.execute(query).one_or_none()
                if row is None:
                    return None
                of = connection.execute(experiment.order_by(observations.c.id.desc()).limit(1)).scalar()
        except SQLAlchemyError as error:
            raise StoreError("The ledger can't be read.") from error
        return AnsweredRequest(row.route, row.adapter, row.version, of or "")

    def put(self, given: StoredFeedback, closed_before: float) -> bool:
        """Store feedback; return False if the first one on this request was given before `closed_before`."""
        values = given._asdict() | {"first_at": given.at}
        insert = (sqlite if self._database.dialect.name == "sqlite" else postgresql).insert(feedback).values(values)
        changes = {name: insert.excluded[name] for name in ("at", "score", "label")}
        statement = insert.on_conflict_do_update(
            index_elements=["key_id", "request_id"], set_=changes, where=feedback.c.first_at >= closed_before
        )
        try:
            with self._database.begin() as connection:
                return connection.execute(statement).rowcount == 1
        except SQLAlchemyError as error:
            raise StoreError("The feedback can't be stored.") from error

    def by_route(self, since: float) -> Sequence[RouteFeedback]:
        """Return the counts and means of feedback since this time, by route."""
        columns = feedback.c
        route = (columns.route, columns.adapter, columns.version)
        query = (
            sa.select(*route, sa.func.count(), sa.func.avg(columns.score))
            .where(columns.at >= since)
            .group_by(*route)
            .order_by(*route)
        )
        try:
            with self._database.connect() as connection:
                return [RouteFeedback(*row) for row in connection.execute(query)]
        except SQLAlchemyError as error:
            raise StoreError("The feedback can't be read.") from error

    def delete_before(self, at: float) -> None:
        """Delete feedback that was last changed before this time."""
        try:
            with self._database.begin() as connection:
                connection.execute(feedback.delete().where(feedback.c.at < at))
        except SQLAlchemyError as error:
            raise StoreError("The feedback can't be deleted.") from error
