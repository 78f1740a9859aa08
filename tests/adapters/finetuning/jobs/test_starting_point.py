"""Jobs that go on from an adapter, which may be removed while they wait."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from loramux_adapters.finetuning.jobs.errors import InvalidJob
from loramux_adapters.finetuning.jobs.starting_point import StartingPoints
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.models import VersionId, VersionState
from tests.helpers.adapter_files import BASE, lora_tensors, write_adapter
from tests.helpers.fine_tuning_jobs import JobTestBed, has_ended, job_test_bed, messages, until

VERSION = "tone@0123456789ab"


class FakeResolver:
    """One adapter with one version."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.state = folder, {"adapter_config.json": None}, VersionState.READY

    def is_base(self, model: str) -> bool:
        return model == BASE.name

    def own_name(self, model: str) -> str:
        return {"old-name": "tone"}.get(model, model)

    def targets(self, name: str) -> tuple[VersionId, ...]:
        return (VersionId.parse(VERSION),) if name == "tone" else ()

    def version(self, name: str) -> Any:
        manifest = SimpleNamespace(files=self.files)
        found = SimpleNamespace(id=VersionId.parse(VERSION), state=self.state, manifest=manifest)
        return found if name == VERSION and self.folder.exists() else None

    def path(self, _: VersionId) -> Path:
        return self.folder


@pytest.fixture
def resolver(tmp_path: Path) -> FakeResolver:
    return FakeResolver(write_adapter(tmp_path / "stored", None, lora_tensors()))


@pytest.fixture
def points(resolver: FakeResolver) -> StartingPoints:
    return StartingPoints(resolver, BASE)  # type: ignore[arg-type]


@pytest.fixture
def bed(tmp_path: Path, engine: sa.Engine, points: StartingPoints) -> Iterator[JobTestBed]:
    bed = job_test_bed(tmp_path, engine)
    bed.runner.planner = replace(bed.runner.planner, starting_points=points)
    bed.supervisor = type(bed.supervisor)(bed.runner, restart_seconds=0.05)
    yield bed


@pytest.mark.parametrize("model", ["tone", "old-name", VERSION])
def test_a_version_is_found_by_any_of_its_names(points: StartingPoints, model: str) -> None:
    assert points.find(model) == VERSION


def test_the_base_is_no_version(points: StartingPoints) -> None:
    assert points.find(BASE.name) is None


def test_an_adapter_with_a_chat_template_of_its_own_is_refused(points: StartingPoints, resolver: FakeResolver) -> None:
    resolver.files["chat_template.jinja"] = None
    with pytest.raises(InvalidJob, match="has a chat template of its own"):
        points.find("tone")


def test_a_version_that_is_not_ready_is_refused(points: StartingPoints, resolver: FakeResolver) -> None:
    resolver.state = VersionState.QUARANTINED
    with pytest.raises(InvalidJob, match=f"{VERSION} is quarantined, not ready"):
        points.find(VERSION)


def test_a_version_that_changes_no_linear_module_is_refused(points: StartingPoints, resolver: FakeResolver) -> None:
    config = resolver.folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["embed_tokens"]}))
    with pytest.raises(InvalidJob, match="changes no linear module") as refused:
        points.shape(VERSION)
    assert refused.value.param == "model"


async def test_a_job_and_its_version_say_what_they_came_from(bed: JobTestBed) -> None:
    job = bed.job(from_version=VERSION)
    async with bed.supervisor.running():
        found = await until(bed, job, has_ended)
    assert (found.state, found.from_version) == (JobState.SUCCEEDED, VERSION), messages(bed, found)
    assert f"Training goes on from {VERSION}" in messages(bed, found)
    assert bed.library.origins[-1] == {"type": "job", "job": job.id, "step": "6", "from": VERSION}
    assert (found.recipe or {})["rank"] == 4


async def test_a_job_goes_on_although_its_adapter_was_removed_while_it_waited(
    bed: JobTestBed, resolver: FakeResolver
) -> None:
    job = bed.job(from_version=VERSION)
    planner = bed.runner.planner
    planner.plan_job(job)
    shutil.rmtree(resolver.folder)
    initial = planner.training_run(replace(job, recipe={})).initial_adapter
    assert initial is not None
    assert sorted(path.name for path in initial.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


async def test_the_copied_adapter_of_a_job_that_is_cancelled_while_it_waits_is_removed(bed: JobTestBed) -> None:
    job = bed.job(from_version=VERSION)
    planner = bed.runner.planner
    planner.plan_job(job)
    assert planner.folders.initial_adapter(job).is_dir()
    async with bed.supervisor.running():
        bed.registry.move(job.id, JobState.CANCELLED, 2.0)
        bed.supervisor.check_now()
        await until(bed, job, lambda _: not planner.folders.initial_adapter(job).exists())
    assert planner.folders.with_work() == []


async def test_a_job_whose_adapter_was_removed_before_it_was_planned_fails_with_the_reason(
    bed: JobTestBed, resolver: FakeResolver
) -> None:
    shutil.rmtree(resolver.folder)
    job = bed.job(from_version=VERSION)
    async with bed.supervisor.running():
        found = await until(bed, job, has_ended)
    assert found.state is JobState.FAILED
    assert (found.error or {})["param"] == "model"
