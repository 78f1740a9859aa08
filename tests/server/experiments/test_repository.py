from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_adapters.errors import StoreError
from loramux_server.experiments.errors import ExperimentNotFound, ExperimentRunning
from loramux_server.experiments.feedback_repository import FeedbackRepository, StoredFeedback
from loramux_server.experiments.models import Outcome, State
from loramux_server.experiments.repository import ExperimentRepository
from tests.helpers.experiment_records import BASELINE_CONFIG, CANARY_CONFIG, experiment_of, observation
from tests.helpers.migrated_database import migrated_database


@pytest.fixture
def database(tmp_path: Path) -> sa.Engine:
    return migrated_database(tmp_path / "database.sqlite3")


def test_an_experiment_is_read_as_it_was_written(database: sa.Engine) -> None:
    repository = ExperimentRepository(database)
    experiment = experiment_of(CANARY_CONFIG)
    repository.add(experiment)
    assert repository.get("exp_1") == experiment
    assert repository.running() == [experiment]


def test_an_adapter_has_at_most_one_running_experiment(database: sa.Engine) -> None:
    repository = ExperimentRepository(database)
    repository.add(experiment_of(BASELINE_CONFIG, "exp_1"))
    with pytest.raises(ExperimentRunning):
        repository.add(experiment_of(BASELINE_CONFIG, "exp_2"))
    assert repository.end("exp_1", State.STOPPED, "", 1.0, {}, None)
    assert not repository.end("exp_1", State.PROMOTED, "", 2.0, {}, None)
    repository.add(experiment_of(BASELINE_CONFIG, "exp_2"))
    assert [experiment.id for experiment in repository.running()] == ["exp_2"]


def test_feedback_is_the_score_of_answered_requests_only(database: sa.Engine) -> None:
    repository, feedback = ExperimentRepository(database), FeedbackRepository(database)
    repository.add(experiment_of(BASELINE_CONFIG))
    rows = [
        observation("adapter", "answered"),
        observation("baseline", "failed", 0.0, outcome=Outcome.FAILED),
        observation("adapter", "silent"),
    ]
    repository.add_observations("exp_1", rows, {"left out": 1})
    for unit, key in (("answered", "key"), ("failed", "key"), ("silent", "other key")):
        given = StoredFeedback(key, f"req-{unit}", 1.0, 0.5, None, "adapter", "tone", "", "exp_1")
        assert feedback.put(given, closed_before=0.0)
    scores = [row.score for row in repository.observations("exp_1", with_feedback=True)]
    assert scores == [0.5, 0.0, None]
    assert [row.score for row in repository.observations("exp_1", with_feedback=False)] == [None, 0.0, None]
    assert repository.get("exp_1").counters == {"left out": 1}


def test_old_observations_and_feedback_are_deleted_and_results_stay(database: sa.Engine) -> None:
    repository, feedback = ExperimentRepository(database), FeedbackRepository(database)
    repository.add(experiment_of(BASELINE_CONFIG))
    repository.add_observations("exp_1", [observation("adapter")], {})
    repository.delete_old_observations(100.0)
    assert len(repository.observations("exp_1", with_feedback=True)) == 1  # it is still running
    repository.end("exp_1", State.STOPPED, "", 50.0, {}, {"verdict": "better"})
    repository.delete_old_observations(100.0)
    assert repository.observations("exp_1", with_feedback=True) == []
    assert repository.get("exp_1").result == {"verdict": "better"}
    feedback.put(StoredFeedback("key", "req", 1.0, 0.5, None, "base", "", "", ""), closed_before=0.0)
    feedback.delete_before(2.0)
    assert feedback.by_route(0.0) == []


def test_an_unknown_experiment_is_not_found_whatever_its_id(database: sa.Engine) -> None:
    for text in ("", "exp_none", "' OR 1=1 --", "\x00", "x" * 10_000):
        with pytest.raises(ExperimentNotFound):
            ExperimentRepository(database).get(text)


def test_a_database_that_fails_is_a_store_error(tmp_path: Path) -> None:
    empty = sa.create_engine(f"sqlite:///{tmp_path}/empty.sqlite3")
    for failing in (ExperimentRepository(empty).running, lambda: FeedbackRepository(empty).by_route(0.0)):
        with pytest.raises(StoreError):
            failing()
