"""The newest evaluation of each adapter, as a controlled result of the version that the job made."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.registry import JobRegistry
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.models import AdapterName, VersionState
from loramux_adapters.registry.registry import AdapterRecord, VersionRecord
from loramux_adapters.resolver import AdapterResolver
from loramux_server.controlled_results.job_results import CLOCK_SLACK_SECONDS, JobResults
from loramux_server.controlled_results.models import ControlledResult, ResultKind, latest_results
from tests.helpers.adapter_files import BASE
from tests.helpers.evaluated_jobs import MOMENTS, evaluated_job
from tests.helpers.registry_records import manifest
from tests.helpers.usage_records import database

TONE = AdapterName("tone")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = database(tmp_path)
    yield engine
    engine.dispose()


def results(engine: sa.Engine, tmp_path: Path, *versions: VersionRecord) -> dict[str, ControlledResult]:
    records = [AdapterRecord(TONE, 1.0, False, versions)] if versions else []
    resolver = AdapterResolver(records, VersionStore(tmp_path / "store"), BASE.spec)
    return latest_results([JobResults(JobRegistry(engine), resolver)])


def version(digest: str, **source: str) -> VersionRecord:
    content = manifest(digest)
    return VersionRecord(content.version_id(TONE), content, source, VersionState.READY, 1.0, 1.0, None, 0)


def test_the_newest_evaluation_of_each_adapter_is_its_result(engine: sa.Engine, tmp_path: Path) -> None:
    evaluated_job(engine, "tone", 100.0, verdict="worse", is_not_worse=False)
    newest = evaluated_job(engine, "tone", 200.0)
    evaluated_job(engine, "other", 150.0, verdict="as good")
    found = results(engine, tmp_path)
    assert set(found) == {"tone", "other"}
    tone = found["tone"]
    assert (tone.kind, tone.id, tone.measured_at, tone.items) == (ResultKind.JOB, newest, 200.0, 30)
    assert (tone.verdict, tone.is_worth_it, tone.baseline) == ("better", True, "base with 9 examples in its prompt")
    assert tone.gain == (0.4, 0.6, 0.75)
    assert tone.tokens == MOMENTS
    assert tone.command == f"loramux finetune show {newest}"
    assert found["other"].is_worth_it


def test_a_job_that_ends_later_replaces_the_result_and_earlier_ones_are_not_read_again(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, asked = JobRegistry(engine), list[float]()
    read = registry.succeeded

    def succeeded(since: float) -> Sequence[JobRecord]:
        asked.append(since)
        return read(since)

    monkeypatch.setattr(registry, "succeeded", succeeded)
    source = JobResults(registry, AdapterResolver([], VersionStore(tmp_path / "store"), BASE.spec))
    evaluated_job(engine, "tone", 100_000.0)
    newest = [source.latest()["tone"].id for _ in range(2)]
    evaluated_job(engine, "tone", 99_000.0)  # by a clock that was set back
    later = evaluated_job(engine, "tone", 200_000.0)
    assert [*newest, later] == [newest[0], newest[0], source.latest()["tone"].id]
    assert source.latest()["tone"].measured_at == 200_000.0
    assert asked == [-CLOCK_SLACK_SECONDS, *(end - CLOCK_SLACK_SECONDS for end in (100_000.0, 100_000.0, 200_000.0))]


def test_the_measured_version_is_the_one_of_the_jobs_last_step(engine: sa.Engine, tmp_path: Path) -> None:
    job = evaluated_job(engine, "tone", 100.0)
    assert results(engine, tmp_path)["tone"].version is None
    last = version("a3", type="job", job=job, step="10")
    others = (
        version("a1", type="job", job=job, step="9"),
        version("a2"),
        version("a4", type="job", job="x", step="99"),
    )
    assert results(engine, tmp_path, *others, last)["tone"].version == str(last.id)


def test_only_an_adapter_that_is_shown_not_to_be_worse_is_worth_it(engine: sa.Engine, tmp_path: Path) -> None:
    for moment, is_not_worse in ((100.0, False), (200.0, True)):
        evaluated_job(engine, "tone", moment, verdict="not enough items", is_not_worse=is_not_worse)
        assert results(engine, tmp_path)["tone"].is_worth_it is is_not_worse


def test_an_evaluation_of_an_earlier_release_says_so_and_gives_no_break_even(engine: sa.Engine, tmp_path: Path) -> None:
    """T1's kind: earlier releases recommended prompting that got everything wrong."""
    evaluated_job(engine, "tone", 100.0, verdict="no difference shown", is_not_worse=None)
    tone = results(engine, tmp_path)["tone"]
    assert "(By release 0.2 or earlier, which compared less well" in tone.sentence
    assert not tone.is_worth_it


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": None},
        {"questions": "many"},
        {"sentence": 5},
        {"gain": {"low": "x", "mean": 0, "high": 1}},
        {"token_moments": {"requests": 30, "means": [1.0], "covariance": [], "has_cached": True}},
    ],
)
def test_a_stored_evaluation_that_can_t_be_read_is_no_result(
    engine: sa.Engine, tmp_path: Path, changes: dict[str, Any]
) -> None:
    evaluated_job(engine, "tone", 100.0, **changes)
    assert results(engine, tmp_path) == {}


def test_a_job_that_did_not_succeed_has_no_result(engine: sa.Engine, tmp_path: Path) -> None:
    evaluated_job(engine, "tone", 100.0, JobState.FAILED)
    assert results(engine, tmp_path) == {}


class Source:
    """A source with one result."""

    def __init__(self, result: ControlledResult) -> None:
        self._result = result

    def latest(self) -> dict[str, ControlledResult]:
        return {self._result.adapter: self._result}


def test_of_a_job_and_an_experiment_the_newer_one_counts(engine: sa.Engine, tmp_path: Path) -> None:
    evaluated_job(engine, "tone", 100.0)
    job = results(engine, tmp_path)["tone"]
    for moment, kind in ((99.0, ResultKind.JOB), (101.0, ResultKind.EXPERIMENT)):
        experiment = replace(job, kind=ResultKind.EXPERIMENT, measured_at=moment)
        for sources in ([Source(job), Source(experiment)], [Source(experiment), Source(job)]):
            assert latest_results(sources)["tone"].kind is kind
