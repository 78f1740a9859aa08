from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.helpers.migrated_database import migrated_database


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = migrated_database(tmp_path / "webhooks.sqlite")
    yield engine
    engine.dispose()
