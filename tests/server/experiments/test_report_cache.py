from pathlib import Path

from loramux_server.experiments.models import State
from loramux_server.experiments.report_cache import REST, ReportCache
from loramux_server.experiments.repository import ExperimentRepository
from tests.helpers.experiment_records import BASELINE_CONFIG, experiment_of, observation
from tests.helpers.migrated_database import migrated_database


async def test_a_report_is_computed_again_when_it_has_rested(tmp_path: Path) -> None:
    repository = ExperimentRepository(migrated_database(tmp_path / "database.sqlite3"))
    experiment = experiment_of(BASELINE_CONFIG)
    repository.add(experiment)
    times = iter([0.0, 1.0, 1.0 + REST - 0.1, 1.0 + REST, 30.0, 31.0, 40.0, 41.0])
    cache = ReportCache(repository, clock=lambda: next(times))

    async def requests(*, fresh: bool = False) -> int:
        return (await cache.look(experiment, fresh=fresh)).report.challenger.requests

    assert await requests() == 0
    repository.add_observations(experiment.id, [observation("adapter")], {})
    assert await requests() == 0
    assert await requests() == 1
    repository.add_observations(experiment.id, [observation("adapter")], {})
    assert await requests(fresh=True) == 2
    assert repository.end(experiment.id, State.STOPPED, "", 1.0, {}, None)
    cache.forget(experiment.id)
    assert cache._looks == {}
