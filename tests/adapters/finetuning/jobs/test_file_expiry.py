import asyncio
import io
from pathlib import Path

import pytest
import sqlalchemy as sa

from loramux_adapters.background_tasks import running_task
from loramux_adapters.finetuning.jobs.errors import FileNotFound
from loramux_adapters.finetuning.jobs.file_expiry import FileExpiry
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.training_files import TrainingFiles
from loramux_adapters.finetuning.jobs.uploads import Uploads
from tests.helpers.fine_tuning_jobs import JobTestBed, job_test_bed


@pytest.fixture
def bed(tmp_path: Path, engine: sa.Engine) -> JobTestBed:
    return job_test_bed(tmp_path, engine)


def expiry(bed: JobTestBed, engine: sa.Engine, folder: Path, now: float) -> FileExpiry:
    uploads = Uploads(engine, folder / "uploads", bed.files)
    return FileExpiry(bed.files, uploads, interval_seconds=0.01, now=lambda: now)


def add(files: TrainingFiles, expires_at: float | None) -> str:
    return files.add(io.BytesIO(b"x"), "a", "fine-tune", 1.0, expires_at=expires_at).id


def test_an_expired_file_is_deleted_and_others_stay(bed: JobTestBed, engine: sa.Engine, tmp_path: Path) -> None:
    expired, later, never = add(bed.files, 10.0), add(bed.files, 11.0), add(bed.files, None)
    expiry(bed, engine, tmp_path, 10.0).delete_expired()
    with pytest.raises(FileNotFound):
        bed.files.get(expired)
    assert not (tmp_path / "files" / expired).exists()
    assert bed.files.path(later).exists()
    assert bed.files.path(never).exists()


def test_a_file_stays_while_an_unfinished_job_needs_it(bed: JobTestBed, engine: sa.Engine, tmp_path: Path) -> None:
    file = add(bed.files, 10.0)
    job = bed.job(training_file=file)
    expiry(bed, engine, tmp_path, 20.0).delete_expired()
    assert bed.files.path(file).exists()
    bed.registry.move(job.id, JobState.CANCELLED, 20.0)
    expiry(bed, engine, tmp_path, 20.0).delete_expired()
    with pytest.raises(FileNotFound):
        bed.files.get(file)


async def test_after_an_error_of_the_database_it_goes_on(bed: JobTestBed, engine: sa.Engine, tmp_path: Path) -> None:
    file = add(bed.files, 10.0)
    with engine.begin() as connection:
        connection.execute(sa.text("alter table uploads rename to away"))
    path = tmp_path / "files" / file
    async with running_task(expiry(bed, engine, tmp_path, 10.0).run_forever()):
        await asyncio.sleep(0.05)
        other = add(bed.files, 5.0)
        with engine.begin() as connection:
            connection.execute(sa.text("alter table away rename to uploads"))
        async with asyncio.timeout(20):
            while path.exists() or (tmp_path / "files" / other).exists():  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)
