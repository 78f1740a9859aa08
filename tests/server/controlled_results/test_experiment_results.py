from pathlib import Path

import pytest

from loramux_server.controlled_results.experiment_results import ExperimentResults
from loramux_server.experiments.models import ExperimentConfig, Observation, State
from loramux_server.experiments.report import build_report
from loramux_server.experiments.repository import ExperimentRepository
from tests.helpers.experiment_records import BASELINE_CONFIG, OLD, experiment_of, observation, observations
from tests.helpers.migrated_database import migrated_database


@pytest.fixture
def repository(tmp_path: Path) -> ExperimentRepository:
    return ExperimentRepository(migrated_database(tmp_path / "database.sqlite3"))


def end(
    repository: ExperimentRepository,
    experiment_id: str,
    rows: list[Observation],
    config: ExperimentConfig = BASELINE_CONFIG,
) -> None:
    repository.add(experiment_of(config, experiment_id))
    repository.add_observations(experiment_id, rows, {})
    report = build_report(config, rows).model_dump(mode="json")
    assert repository.end(experiment_id, State.STOPPED, "It was stopped.", 9.0, {}, report)


DECIDED = [*observations("adapter", 60, 1.0), *observations("baseline", 60, 0.0)]


def test_the_newest_decided_experiment_of_an_adapter_is_its_result(repository: ExperimentRepository) -> None:
    end(repository, "exp_decided", DECIDED)
    end(repository, "exp_undecided", DECIDED[:3])
    repository.add(experiment_of(BASELINE_CONFIG, "exp_running"))
    result = ExperimentResults(repository).latest()["tone"]
    assert (result.id, result.version, result.verdict, result.items) == ("exp_decided", OLD, "better", 60)
    assert (result.baseline, result.is_worth_it, result.measured_at) == ("base", True, 9.0)
    assert result.command == "loramux experiment show exp_decided"
    assert result.tokens is None  # the variants answered different requests


def test_a_shadow_experiment_has_the_tokens_of_its_pairs(repository: ExperimentRepository) -> None:
    config = BASELINE_CONFIG.model_copy(update={"shadow": True, "share": 1.0})
    rows = [
        observation(variant, f"user-{number}", score, input_tokens=tokens)
        for variant, score, tokens in (("adapter", 1.0, 100), ("baseline", 0.0, 400))
        for number in range(30)
    ]
    end(repository, "exp_shadow", rows, config)
    tokens = ExperimentResults(repository).latest()["tone"].tokens
    assert tokens is not None
    assert (tokens.requests, tokens.has_cached) == (30, False)
    assert tokens.means == [100, 0, 10, 400, 0, 10]


def test_without_experiments_there_are_no_results(repository: ExperimentRepository) -> None:
    assert ExperimentResults(repository).latest() == {}
