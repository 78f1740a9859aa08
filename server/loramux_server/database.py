"""The database: connection and migrations."""

import sqlite3
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from loramux_adapters.finetuning.jobs import tables as job_tables
from loramux_adapters.registry import tables as adapter_tables
from loramux_server.errors import CannotStart
from loramux_server.experiments import tables as experiment_tables
from loramux_server.keys import tables as key_tables
from loramux_server.limits import tables as limit_tables
from loramux_server.metering.ledger import tables as ledger_tables
from loramux_server.webhooks import tables as webhook_tables

TABLES = [
    adapter_tables.metadata,
    ledger_tables.metadata,
    job_tables.metadata,
    experiment_tables.metadata,
    webhook_tables.metadata,
    key_tables.metadata,
    limit_tables.metadata,
]
"""Tables that the packages declare; the migrations must create exactly these."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_SECONDS = 30
_LOCK_ID = 0x6C6F7261  # the number of a PostgreSQL advisory lock: "lora" in ASCII


class DatabaseTooNew(CannotStart):
    """A newer release has migrated the database."""


def create_engine(url: str) -> sa.Engine:
    """Return an engine for the SQLite or PostgreSQL database at `url`; connects on first use."""
    if make_url(url).get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS})
    sa.event.listen(engine, "connect", _configure_sqlite)
    return engine


def upgrade(engine: sa.Engine) -> None:
    """Migrate the database to this release's tables, in one transaction.

    Processes that start at the same time wait for each other.

    Raises:
        DatabaseTooNew: a newer release has migrated the database.

    """
    current, newest = _current_revision(engine), newest_revision()
    if current == newest:
        return
    if current is not None and current > newest:
        raise DatabaseTooNew(
            f"The database is at revision {current}, of a newer release; this release supports up to {newest}: "
            "upgrade loramux."
        )
    # Importing Alembic is slow, and nearly every start finds the database up to date.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with engine.begin() as connection:
        _lock(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def newest_revision() -> str:
    """Return the newest revision of this release; files are named REVISION_TITLE.py."""
    return max(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _current_revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return revision


def _lock(connection: sa.Connection) -> None:
    """Lock the whole database (SQLite) or the migrations (PostgreSQL) until the transaction ends."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_ID)))


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Enable WAL, so that readers and a writer can work at the same time, and foreign keys.

    With WAL, NORMAL keeps the database consistent through a crash; a power failure may lose the last transactions.
    """
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    deadline = time.monotonic() + _BUSY_TIMEOUT_SECONDS
    while not _enter_wal(connection):
        if time.monotonic() > deadline:
            raise TimeoutError("Another process has locked the database.")
        time.sleep(0.01)


def _enter_wal(connection: sqlite3.Connection) -> bool:
    """Switch to WAL; return False if another process is doing so, for which SQLite does not wait by itself."""
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
