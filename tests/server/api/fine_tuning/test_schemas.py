"""Serialization of jobs; test_routes.py tests them over HTTP."""

from dataclasses import replace
from typing import Any

import pytest

from loramux_adapters.finetuning.jobs.forecast import JobForecast
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_server.api.fine_tuning.schemas import JobSerializer
from tests.helpers.fine_tuning_jobs import job_record

SERIALIZER = JobSerializer("local", lambda *_: {})


def asked(recipe: dict[str, Any] | None = None, **hyperparameters: Any) -> JobRecord:
    job = job_record(JobState.RUNNING)
    return replace(job, wanted={"hyperparameters": hyperparameters} if hyperparameters else {}, recipe=recipe)


@pytest.mark.parametrize("multiplier", [1e-7, 1e-300, 0.5, 1000.0, 5000.0])
def test_a_multiplier_is_shown_as_requested(multiplier: float) -> None:
    recipe = Recipe(learning_rate=1e-9, epochs=3, batch_size=5).model_dump(mode="json")
    job = SERIALIZER.job(asked(recipe, learning_rate_multiplier=multiplier))
    assert job["hyperparameters"] == {"n_epochs": 3, "batch_size": 5, "learning_rate_multiplier": multiplier}
    assert job["method"]["supervised"]["hyperparameters"] == job["hyperparameters"]


def test_open_hyperparameters_are_shown_as_chosen() -> None:
    recipe = Recipe(epochs=3, batch_size=5).model_dump(mode="json")
    job = SERIALIZER.job(asked(recipe, n_epochs="auto", batch_size="auto", learning_rate_multiplier="auto"))
    assert job["hyperparameters"] == {"n_epochs": 3, "batch_size": 5, "learning_rate_multiplier": 1.0}


def test_before_planning_a_job_shows_the_requested_hyperparameters() -> None:
    expected = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert SERIALIZER.job(asked(n_epochs=2))["hyperparameters"] == expected
    assert set(SERIALIZER.job(asked())["hyperparameters"].values()) == {"auto"}


@pytest.mark.parametrize(("left", "finish"), [(60.5, 10_060), (None, None)])
def test_the_end_is_estimated_from_now_however_long_ago_the_job_began(left: float | None, finish: int | None) -> None:
    job = replace(job_record(JobState.RUNNING, seconds=5, seconds_left=1.0), started_at=100.0)
    shown = JobSerializer("local", lambda *_: {}, lambda: 10_000.0).job(job, JobForecast(seconds_left=left))
    assert (shown["estimated_finish"], shown["loramux"]["seconds_left"]) == (finish, left)


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_does_not_go_on_has_no_time_left(state: JobState) -> None:
    """T12: cancelled jobs showed "16786 s left"."""
    shown = SERIALIZER.job(job_record(state, seconds=5, seconds_left=16786.0))
    assert (shown["estimated_finish"], shown["loramux"]["seconds_left"]) == (None, None)
