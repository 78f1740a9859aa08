from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from loramux_adapters.errors import StoreError
from loramux_adapters.evaluation.scorers.base import ScoringError
from loramux_server.experiments import recorder as recorder_module
from loramux_server.experiments.assignment import Assignment
from loramux_server.experiments.metrics import ExperimentMetrics
from loramux_server.experiments.models import Outcome
from loramux_server.experiments.recorder import ExperimentRecorder, outcome_of
from loramux_server.metering.usage_record import Charge, Operation, RunStats, UsageRecord
from loramux_server.metering.usage_record import Outcome as RequestOutcome
from tests.helpers.experiment_records import BASELINE_CONFIG, experiment_of

CHARGE = Charge(1000, None, "v")


class Repository:
    """Keeps observations; fails while `fails`."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.counters: dict[str, int] = {}
        self.fails = False

    def add_observations(self, _experiment: str, rows: list[Any], counters: dict[str, int]) -> None:
        if self.fails:
            raise StoreError("full")
        self.rows += rows
        self.counters = counters


class Measure:
    """Scores an answer by its length, or raises an error."""

    name = "length"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def score(self, _question: str, answer: str) -> float:
        if self.error:
            raise self.error
        return min(1.0, len(answer) / 10)


def assignment(**values: Any) -> Assignment:
    given: dict[str, Any] = {"measure": Measure(), "texts": ["hello"]}
    config = BASELINE_CONFIG
    return Assignment(experiment_of(config), config.challenger, "unit", "tone", **given | values)


def record(assigned: Assignment | None, outcome: RequestOutcome = RequestOutcome.OK, status: int = 200) -> UsageRecord:
    return UsageRecord(
        request_id="req",
        operation=Operation.CHAT,
        outcome=outcome,
        status=status,
        error=None,
        key_id="key",
        route=None,
        started_at=1.0,
        duration=2.0,
        stats=RunStats(input_tokens=3, output_tokens=4),
        experiment=assigned,
    )


def recorder_of(repository: Repository) -> ExperimentRecorder:
    return ExperimentRecorder(repository, ExperimentMetrics(CollectorRegistry()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcome", "status", "failure", "expected"),
    [
        (RequestOutcome.OK, 200, None, Outcome.ANSWERED),
        (RequestOutcome.OK, 200, "too long", Outcome.FAILED),
        (RequestOutcome.FAILED, 500, None, Outcome.FAILED),
        (RequestOutcome.REFUSED, 503, None, Outcome.FAILED),
        (RequestOutcome.REFUSED, 400, None, None),
        (RequestOutcome.REFUSED, 400, "too long", None),
        (RequestOutcome.CANCELLED, 200, None, Outcome.CANCELLED),
        (RequestOutcome.CANCELLED, 200, "too long", Outcome.CANCELLED),
    ],
)
def test_the_outcome_is_that_of_the_assigned_variant(
    outcome: RequestOutcome, status: int, failure: str | None, expected: Outcome | None
) -> None:
    assigned = assignment(failure=failure)
    assert outcome_of(record(assigned, outcome, status), assigned) is expected


async def test_requests_are_scored_and_stored_and_other_requests_are_ignored() -> None:
    repository = Repository()
    recorder = recorder_of(repository)
    recorder.record_charge(record(None), CHARGE)
    recorder.record_charge(record(assignment(texts=["ab", "abcd"])), CHARGE)
    await recorder.flush()
    [row] = repository.rows
    assert (row.score, row.input_tokens, row.price_list_cost, row.gpu_hour_cost) == (pytest.approx(0.3), 3, 1000, None)


@pytest.mark.parametrize(
    ("values", "score", "reason"),
    [
        ({"texts": []}, None, "not scored: only a tool call"),
        ({"measure": Measure(ScoringError("no"))}, None, "not scored: the judge gave no grade"),
        ({"measure": Measure(RecursionError())}, None, "not scored: the scorer failed"),
        ({"measure": None}, None, None),
        ({"failure": "too long"}, 0.0, None),
    ],
)
async def test_what_can_not_be_scored_is_counted(
    values: dict[str, Any], score: float | None, reason: str | None
) -> None:
    repository = Repository()
    recorder = recorder_of(repository)
    recorder.record_charge(record(assignment(**values)), CHARGE)
    await recorder.flush()
    assert [row.score for row in repository.rows] == [score]
    assert list(repository.counters) == ([reason] if reason else [])


async def test_a_database_that_fails_loses_nothing() -> None:
    repository = Repository()
    recorder = recorder_of(repository)
    repository.fails = True
    for _ in range(2):
        recorder.record_charge(record(assignment()), CHARGE)
        await recorder.flush()
    assert repository.rows == []
    repository.fails = False
    await recorder.flush()
    assert len(repository.rows) == 2


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_WAITING", 3)
    recorder = recorder_of(Repository())
    for _ in range(5):
        recorder.record_charge(record(assignment()), CHARGE)
    assert recorder.counters["exp_1"] == {"not recorded: too many requests at once": 2}
