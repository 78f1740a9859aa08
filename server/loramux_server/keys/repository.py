"""The API keys in the database."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace

import sqlalchemy as sa

from loramux_adapters.models import DEFAULT_PROJECT
from loramux_server.auth import Scope
from loramux_server.errors import InvalidRequest
from loramux_server.keys.models import ApiKey, KeyGrant, KeySecret, KeyStatus
from loramux_server.keys.tables import api_key_revision, api_key_secrets, api_keys
from loramux_server.metering.ledger.repository import store_errors


class KeyRepository:
    """Reads and changes the keys; all methods block on the database.

    Raises:
        StoreError: the database can't be read or written.
    """

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def revision(self) -> int:
        """Return a number that grows with each change of a key."""
        with self._reading() as connection:
            return int(connection.execute(sa.select(sa.func.max(api_key_revision.c.number))).scalar_one())

    def all(self, project: str | None = None) -> list[ApiKey]:
        """Return the keys of a project, or all of them, newest first."""
        with self._reading() as connection:
            return _read(connection, api_keys.c.project == project if project is not None else sa.true())

    def get(self, key_id: str) -> ApiKey:
        """Return a key.

        Raises:
            InvalidRequest: there is none of this id.
        """
        with self._reading() as connection:
            return _get(connection, key_id)

    def add(self, key: ApiKey) -> ApiKey:
        """Insert a key with its secrets, and return it as it is stored, with an organisation.

        Raises:
            InvalidRequest: its project belongs to another organisation.
        """
        with self._changing() as connection:
            grant = replace(key.grant, organisation=_organisation(connection, key.grant))
            row = asdict(grant) | {"id": key.id, "created_at": key.created_at, "created_by": key.created_by}
            connection.execute(api_keys.insert(), row | {"scopes": sorted(grant.scopes)})
            for secret in key.secrets:
                connection.execute(api_key_secrets.insert(), asdict(secret) | {"key_id": key.id})
        return replace(key, grant=grant)

    def rotate(self, key_id: str, secret: KeySecret, old_until: float) -> ApiKey:
        """Add a secret; the others end at `old_until` at the latest.

        Raises:
            InvalidRequest: there is no such key, or it has expired or is revoked.
        """
        columns = api_key_secrets.c
        with self._changing() as connection:
            status = _get(connection, key_id).status(secret.created_at)
            if status is not KeyStatus.ACTIVE:
                message = f"The key {key_id} is {status.value} and can't be rotated: create a new one."
                raise InvalidRequest(message, status=409, code="key_not_active")
            ends_later = sa.or_(columns.expires_at.is_(None), columns.expires_at > old_until)
            shorten = api_key_secrets.update().where(columns.key_id == key_id, ends_later)
            connection.execute(shorten.values(expires_at=old_until))
            connection.execute(api_key_secrets.insert(), asdict(secret) | {"key_id": key_id})
            return _get(connection, key_id)

    def revoke(self, key_id: str, actor: str, now: float) -> ApiKey:
        """Revoke a key for good; a revoked one stays as it is.

        Raises:
            InvalidRequest: there is none of this id.
        """
        with self._changing() as connection:
            key = _get(connection, key_id)
            if key.revoked_at is None:
                key = replace(key, revoked_at=now, revoked_by=actor)
                values = {"revoked_at": now, "revoked_by": actor}
                connection.execute(api_keys.update().where(api_keys.c.id == key_id).values(values))
            return key

    def record_use(self, used: Mapping[str, float]) -> None:
        """Store when secrets, by digest, were last used, unless a later time is stored."""
        columns = api_key_secrets.c
        later = sa.or_(columns.last_used_at.is_(None), columns.last_used_at < sa.bindparam("at"))
        update = api_key_secrets.update().where(columns.digest == sa.bindparam("of"), later)
        # All servers update in the same order, so that their transactions do not wait for each other in a circle.
        rows = [{"of": digest, "at": at} for digest, at in sorted(used.items())]
        with store_errors("The use of API keys can't be written."), self._database.begin() as connection:
            connection.execute(update.values(last_used_at=sa.bindparam("at")), rows)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with store_errors("The API keys can't be read."), self._database.connect() as connection:
            yield connection

    @contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        """Return a transaction that waits for the others that change keys, and counts as a change."""
        with store_errors("The API keys can't be changed."), self._database.begin() as connection:
            # First, because it locks: the row in PostgreSQL, the database in SQLite.
            connection.execute(api_key_revision.update().values(number=api_key_revision.c.number + 1))
            yield connection


def _read(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[ApiKey]:
    keys = connection.execute(
        sa.select(api_keys).where(condition).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
    )
    of_these = api_key_secrets.c.key_id.in_(sa.select(api_keys.c.id).where(condition))
    query = sa.select(api_key_secrets).where(of_these).order_by(api_key_secrets.c.created_at)
    secrets: dict[str, list[KeySecret]] = {}
    for row in connection.execute(query):
        secret = KeySecret(row.digest, row.prefix, row.created_at, row.expires_at, row.last_used_at)
        secrets.setdefault(row.key_id, []).append(secret)
    return [_key(row, secrets.get(row.id, [])) for row in keys.mappings()]


def _key(row: sa.RowMapping, secrets: list[KeySecret]) -> ApiKey:
    scopes = frozenset(Scope(scope) for scope in row["scopes"])
    models = None if row["models"] is None else tuple(row["models"])
    grant = KeyGrant(row["name"], scopes, row["project"], row["organisation"], models, row["expires_at"])
    times = (row["created_at"], row["created_by"], row["revoked_at"], row["revoked_by"])
    return ApiKey(row["id"], grant, *times, secrets)


def _get(connection: sa.Connection, key_id: str) -> ApiKey:
    found = _read(connection, api_keys.c.id == key_id)
    if not found:
        raise InvalidRequest(f"There is no API key {key_id}.", status=404, code="key_not_found")
    return found[0]


def _organisation(connection: sa.Connection, grant: KeyGrant) -> str:
    """Return the organisation of a new key's project.

    Two organisations never share a project, whose keys see the same files, jobs and adapters.

    Raises:
        InvalidRequest: the project belongs to another organisation.
    """
    query = sa.select(api_keys.c.organisation).where(api_keys.c.project == grant.project).limit(1)
    owner: str | None = connection.execute(query).scalar_one_or_none()
    if owner is None and grant.project == DEFAULT_PROJECT:
        owner = DEFAULT_PROJECT
    given = grant.organisation or owner or DEFAULT_PROJECT
    if owner not in (None, given):
        message = f"The project {grant.project} belongs to the organisation {owner}: use that, or another project."
        raise InvalidRequest(message, param="organisation", status=409, code="project_conflict")
    return given
