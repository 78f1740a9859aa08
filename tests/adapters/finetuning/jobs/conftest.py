from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_adapters.finetuning.jobs import result_files
from tests.helpers.migrated_database import migrated_database


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = migrated_database(tmp_path / "jobs.sqlite")
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def _quick_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the plot of each job empty, except where plots are tested: matplotlib takes most of a short job's time."""
    if request.path.stem != "test_result_files":
        monkeypatch.setattr(result_files, "_plot_losses", lambda path, _rows, _title: path.touch())
