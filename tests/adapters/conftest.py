from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux_adapters.registry.registry import Registry
from tests.helpers.migrated_database import migrated_database


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    engine = migrated_database(tmp_path / "registry.sqlite")
    yield Registry(engine)
    engine.dispose()
