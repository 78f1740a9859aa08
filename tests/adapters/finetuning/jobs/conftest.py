from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_server import database as db


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = db.create_engine(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    db.upgrade(engine)
    yield engine
    engine.dispose()
