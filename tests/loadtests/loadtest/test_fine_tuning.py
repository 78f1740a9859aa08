import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loramux_loadtests.loadtest import fine_tuning
from loramux_loadtests.loadtest.fine_tuning import MAX_FAILED_POLLS, TuningJob, job_during_load
from loramux_loadtests.loadtest.scenario import FineTuningOptions


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "POLL_INTERVAL_S", 0.01)


class Jobs:
    """A server with one job, whose polls return `statuses` and then the last one again; a number is an HTTP error."""

    def __init__(self, *statuses: str | int) -> None:
        self.statuses: Sequence[str | int] = statuses
        self.polls = 0
        self.cancelled_after: int | None = None
        """The number of polls before the cancellation."""

    async def create(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"id": "one"})

    async def job(self, request: web.Request) -> web.Response:
        status = "cancelled" if self.cancelled_after else self.statuses[min(self.polls, len(self.statuses) - 1)]
        self.polls += 1
        return web.json_response({"status": status}, status=status if isinstance(status, int) else 200)

    async def cancel(self, request: web.Request) -> web.Response:
        self.cancelled_after = self.polls
        await asyncio.sleep(0.1)  # so that the load can end first
        return web.json_response({})

    @asynccontextmanager
    async def during_load(self, folder: Path) -> AsyncIterator[TuningJob]:
        app = web.Application()
        app.router.add_post("/v1/files", self.create)
        app.router.add_post("/v1/fine_tuning/jobs", self.create)
        app.router.add_get("/v1/fine_tuning/jobs/one", self.job)
        app.router.add_post("/v1/fine_tuning/jobs/one/cancel", self.cancel)
        (folder / "train.jsonl").write_text("{}")
        async with TestServer(app) as running:
            options = FineTuningOptions(data=folder / "train.jsonl", after=0.0)
            async with job_during_load(options, str(running.make_url("/")), "base", None) as job:
                yield job


async def test_a_job_that_ends_before_the_load_ran_until_then(tmp_path: Path) -> None:
    async with Jobs("queued", "running", "running", "succeeded").during_load(tmp_path) as job:
        await asyncio.sleep(0.5)
    assert job.description == "fine-tuning job: succeeded"
    assert job.running_since is not None
    assert job.running_until is not None
    assert 0.0 < job.running_until - job.running_since < 0.4


async def test_a_job_is_followed_though_a_poll_fails(tmp_path: Path) -> None:
    jobs = Jobs("running", *[500] * (MAX_FAILED_POLLS - 1), "running", *[500] * (MAX_FAILED_POLLS - 1), "running")
    async with jobs.during_load(tmp_path) as job:
        while jobs.polls <= 2 * MAX_FAILED_POLLS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert jobs.cancelled_after is None
    assert job.description == "fine-tuning job: running until it was cancelled"


async def test_a_job_that_is_given_up_is_cancelled_even_if_the_load_ends_first(tmp_path: Path) -> None:
    jobs = Jobs("running", 500)
    async with jobs.during_load(tmp_path) as job:
        while not jobs.cancelled_after:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert jobs.cancelled_after == 1 + MAX_FAILED_POLLS
        assert job.running_until is not None
    assert "running until it was cancelled (GET /v1/fine_tuning/jobs/one answers 500" in job.description


async def test_a_server_without_jobs_is_reported(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    async with TestServer(web.Application()) as running:
        options = FineTuningOptions(data=tmp_path / "train.jsonl", after=0.0)
        async with job_during_load(options, str(running.make_url("/")), "base", None) as job:
            await asyncio.sleep(0.2)
    assert job.description.startswith("fine-tuning job: not started (POST /v1/files answers 404")
    assert job.running_since is None
