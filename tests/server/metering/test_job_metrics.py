from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from loramux_adapters.finetuning.jobs.models import JobProgress
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_server.metering.job_metrics import JobMetrics
from loramux_server.metering.ledger.training_costs import TrainingCosts
from loramux_server.metering.pricing import FixedPrices, Prices
from tests.helpers.fine_tuning_jobs import NAME, job_record
from tests.helpers.usage_records import database


@pytest.fixture
def costs(tmp_path: Path) -> TrainingCosts:
    return TrainingCosts(database(tmp_path), FixedPrices(Prices()))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(costs: TrainingCosts, registry: CollectorRegistry) -> JobMetrics:
    return JobMetrics(costs, registry)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"loramux_fine_tuning_{name}", labels)


def test_a_resumed_job_counts_only_new_progress(metrics: JobMetrics, registry: CollectorRegistry) -> None:
    metrics.started(job_record(JobState.RUNNING, step=2, steps=10, tokens=200, seconds=2.0))
    metrics.progressed(JobProgress(step=3, steps=10, tokens=300, seconds=3.5, seconds_left=9, loss=0.5))
    metrics.progressed(JobProgress(step=5, steps=10, tokens=500, seconds=5.0, seconds_left=7, loss=0.25))
    assert (value(registry, "tokens_total"), value(registry, "seconds_total")) == (300, 3)
    shown = [value(registry, name) for name in ("jobs_running", "progress_ratio", "left_seconds", "loss")]
    assert shown == [1, 0.5, 7, 0.25]


def test_repeated_steps_do_not_decrease_counters(metrics: JobMetrics, registry: CollectorRegistry) -> None:
    metrics.started(job_record(JobState.RUNNING))
    for tokens in (500, 300, 500):
        metrics.progressed(JobProgress(tokens=tokens))
    assert value(registry, "tokens_total") == 700


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED])
def test_a_stopped_job_is_charged_and_only_an_ended_one_is_counted(
    metrics: JobMetrics, registry: CollectorRegistry, costs: TrainingCosts, state: JobState
) -> None:
    metrics.started(job_record(JobState.RUNNING))
    metrics.stopped(job_record(state, tokens=700, seconds=7))
    counted = {
        outcome: value(registry, "jobs_total", outcome=outcome) for outcome in ("succeeded", "failed", "cancelled")
    }
    assert counted == dict.fromkeys(counted, 0) | ({state.value: 1} if state.has_ended else {})
    assert value(registry, "jobs_running") == 0
    assert costs.by_adapter()[NAME].tokens == 700


def test_a_job_that_never_trained_costs_nothing(metrics: JobMetrics, costs: TrainingCosts) -> None:
    metrics.stopped(job_record(JobState.CANCELLED))
    assert costs.by_adapter() == {}


def test_a_job_cancelled_while_waiting_is_counted(metrics: JobMetrics, registry: CollectorRegistry) -> None:
    metrics.cancelled(job_record(JobState.CANCELLED))
    assert value(registry, "jobs_total", outcome="cancelled") == 1


def test_a_job_cancelled_while_running_is_counted_once(metrics: JobMetrics, registry: CollectorRegistry) -> None:
    metrics.started(job_record(JobState.RUNNING))
    metrics.cancelled(job_record(JobState.CANCELLED))
    assert value(registry, "jobs_running") == 1
    metrics.stopped(job_record(JobState.CANCELLED))
    assert (value(registry, "jobs_total", outcome="cancelled"), value(registry, "jobs_running")) == (1, 0)


def test_the_number_of_waiting_jobs_is_shown(metrics: JobMetrics, registry: CollectorRegistry) -> None:
    metrics.queue_changed(3)
    assert value(registry, "jobs_waiting") == 3
