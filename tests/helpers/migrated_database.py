"""SQLite databases with this release's tables: migrated once per process, then copied for each test.

Tests of the migrations themselves run them instead."""

import functools
import tempfile
from pathlib import Path

import sqlalchemy as sa

from loramux_server.database import create_engine, upgrade


def migrated_database(path: Path) -> sa.Engine:
    """Return an engine for the database at `path`, an empty one if there is none yet; its folder must exist."""
    if not path.exists():
        path.write_bytes(_migrated_content())
    return create_engine(f"sqlite:///{path}")


@functools.cache
def _migrated_content() -> bytes:
    """Run the migrations and return the database file's content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "migrated.sqlite"
        engine = create_engine(f"sqlite:///{path}")
        upgrade(engine)
        engine.dispose()  # the last connection moves the write-ahead log into the file
        return path.read_bytes()
