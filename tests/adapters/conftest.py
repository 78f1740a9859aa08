from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux_adapters.registry.registry import Registry
from loramux_server import database as db


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    engine = db.create_engine(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    db.upgrade(engine)
    yield Registry(engine)
    engine.dispose()
