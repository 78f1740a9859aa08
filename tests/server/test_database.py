import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from loramux_server import database as db

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'loramux.sqlite'}"


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = db.create_engine(url)
    yield engine
    engine.dispose()


def test_the_migrations_make_exactly_the_tables_that_the_packages_declare(engine: sa.Engine) -> None:
    db.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, db.TABLES) == []  # type: ignore[arg-type] # it takes a list too


def test_the_declared_checks_and_cascades_are_in_the_database_too(engine: sa.Engine) -> None:
    """Return what Alembic does not compare."""
    db.upgrade(engine)
    found = sa.inspect(engine)
    for metadata in db.TABLES:
        for table in metadata.tables.values():
            declared = {check.name for check in table.constraints if isinstance(check, sa.CheckConstraint)}
            assert {check["name"] for check in found.get_check_constraints(table.name)} == declared
            cascades = {key.name: key.ondelete for key in table.foreign_key_constraints}
            assert {key["name"]: key["options"]["ondelete"] for key in found.get_foreign_keys(table.name)} == cascades


def test_the_newest_revision_is_alembic_s_head() -> None:
    assert ScriptDirectory(str(db._MIGRATIONS)).get_current_head() == db.newest_revision()


def test_an_upgrade_of_a_current_database_changes_nothing_and_is_quick(engine: sa.Engine, url: str) -> None:
    db.upgrade(engine)
    command = [sys.executable, "-m", "tests.helpers.processes.upgrade_current_database", url]
    seconds, has_alembic = subprocess.check_output(command, cwd=ROOT, text=True).split()
    assert float(seconds) < 0.05
    assert has_alembic == "False"


def test_processes_that_start_together_on_an_empty_database_all_succeed(url: str, engine: sa.Engine) -> None:
    program = ["-W", "error::DeprecationWarning", "-m", "tests.helpers.processes.upgrade_database"]
    gate, key = os.pipe()  # All wait for the end of the same pipe, so that they go on together.
    processes = [
        subprocess.Popen([sys.executable, *program, url], cwd=ROOT, stdin=gate, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
    os.close(gate)
    os.close(key)
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sa.inspect(engine).has_table("versions")


def test_a_failed_migration_leaves_the_database_as_it_was(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE aliases (unrelated INTEGER)"))  # The last table to be made.
    with pytest.raises(sa.exc.OperationalError, match="already exists"):
        db.upgrade(engine)
    assert sa.inspect(engine).get_table_names() == ["aliases"]


def test_a_database_of_a_newer_release_is_refused(engine: sa.Engine) -> None:
    db.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(db.DatabaseTooNew, match="9999"):
        db.upgrade(engine)


def test_sqlite_reads_during_a_write_and_enforces_foreign_keys(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def test_a_connection_waits_while_another_process_makes_the_database(engine: sa.Engine, tmp_path: Path) -> None:
    """SQLite itself fails immediately if another process writes to a database that is not in WAL mode yet."""
    other = sqlite3.connect(tmp_path / "loramux.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, other.close).start()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_database_that_can_not_be_opened_is_reported_immediately(tmp_path: Path) -> None:
    with pytest.raises(sa.exc.OperationalError, match="unable to open"):
        db.upgrade(db.create_engine(f"sqlite:///{tmp_path / 'missing' / 'file'}"))


def upgrade_to(engine: sa.Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(db._MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


OLD_ROWS = """
INSERT INTO adapters VALUES ('tone', 10.0);
INSERT INTO versions VALUES ('tone', 'aaaaaaaaaaaa', '{}', '{"type": "folder"}', 'ready', 10.0);
INSERT INTO versions VALUES ('tone', 'bbbbbbbbbbbb', '{}', '{"type": "folder"}', 'ready', 20.0);
INSERT INTO aliases VALUES ('tone', 'bbbbbbbbbbbb', 1.0);
"""


def test_adapters_of_the_first_revision_stay_served(engine: sa.Engine, url: str) -> None:
    upgrade_to(engine, "0001")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as old:
        old.executescript(OLD_ROWS)
    old.close()
    db.upgrade(engine)
    with engine.connect() as connection:
        versions = connection.execute(sa.text("SELECT digest, state, reason, proof, uses FROM versions")).all()
        assert [tuple(row) for row in versions] == [
            ("aaaaaaaaaaaa", "ready", None, None, 0),
            ("bbbbbbbbbbbb", "ready", None, None, 0),
        ]
        assert connection.execute(sa.text("SELECT name, pinned FROM adapters")).all() == [("tone", 0)]
        assert connection.execute(sa.text("SELECT digest, weight FROM aliases")).all() == [("bbbbbbbbbbbb", 1.0)]
        assert not connection.execute(sa.text("SELECT * FROM audit")).all()


OLD_PRICES = {
    "none": '{"base": {"input": "0", "cached": null, "output": "0"}, "gpu_hour": "0"}',
    "some": '{"base": {"input": "1", "cached": null, "output": "2"}, "gpu_hour": "3"}',
}
OLD_RECORD = {
    "ended_at": 1.0, "request_id": "req", "route": "base", "adapter": "", "version": "", "key_id": "",
    "operation": "chat", "status": 200, "duration": 1.0, "queue": 0, "lease_wait": 0, "cached_tokens": 0,
    "output_tokens": 5, "cold": 0, "sequences": 1, "preemptions": 0, "corrupted": 0,
}  # fmt: skip
_HOUR = "INSERT INTO usage_hours VALUES (?, 'writer', 'base', '', '', '', 'chat', ?, 7, ?, 0, 0, ?, ?, 0, x'')"


def _insert_record(old: sqlite3.Connection, *values: object) -> None:
    names = ("outcome", "input_tokens", "price_list_cost", "gpu_hour_cost", "price_version")
    row = OLD_RECORD | dict(zip(names, values, strict=True))
    old.execute(
        f"INSERT INTO usage_records ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608
        tuple(row.values()),
    )


def test_costs_of_zero_in_an_old_ledger_become_unknown_where_no_price_was_set(engine: sa.Engine, url: str) -> None:
    """T5: requests before prices were set cost an unknown amount."""
    upgrade_to(engine, "0006")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as old:
        prices = [(version, at, text) for at, (version, text) in enumerate(OLD_PRICES.items())]
        old.executemany("INSERT INTO price_lists VALUES (?, ?, ?)", prices)
        old.execute("INSERT INTO training_costs VALUES ('ftjob-1', 'tone', 5.0, 100, 1.0, 0, 0, 'none')")
        _insert_record(old, "ok", 9, 0, 0, "none")
        _insert_record(old, "refused", 0, 0, 0, "none")
        _insert_record(old, "ok", 9, 30, 40, "some")
        _insert_record(old, "ok", 9, 0, 0, "some")
        old.executemany(_HOUR, [(1, "ok", 9, 0, 0), (2, "ok", 9, 5, 0), (3, "refused", 0, 0, 0)])
    old.close()
    db.upgrade(engine)
    with engine.connect() as connection:
        columns = "price_list_unpriced, gpu_hour_unpriced"
        records = connection.execute(sa.text(f"SELECT {columns} FROM usage_records ORDER BY id")).all()  # noqa: S608
        hours = connection.execute(sa.text(f"SELECT {columns} FROM usage_hours ORDER BY hour")).all()  # noqa: S608
        training = connection.execute(sa.text(f"SELECT {columns} FROM training_costs")).all()  # noqa: S608
        changes = connection.execute(sa.text("SELECT at, version, origin FROM price_changes ORDER BY id")).all()
    assert records == [(1, 1), (0, 0), (0, 0), (0, 0)]
    assert hours == [(7, 7), (0, 7), (0, 0)]
    assert training == [(1, 1)]
    assert changes == [(0.0, "none", "settings"), (1.0, "some", "settings")]
