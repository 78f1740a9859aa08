import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loramux_loadtests.loadtest import fine_tuning
from loramux_loadtests.loadtest.fine_tuning import LOST_AFTER, Job, beside
from loramux_loadtests.loadtest.scenario import FineTuning


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "POLL_S", 0.01)


class Jobs:
    """A server with one job, of which it tells what `said` says, the last one for ever; a number is a refusal."""

    def __init__(self, *said: str | int) -> None:
        self.said: Sequence[str | int] = said
        self.polls = 0
        self.cancelled_after: int | None = None
        """So many polls."""

    async def made(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"id": "one"})

    async def job(self, request: web.Request) -> web.Response:
        said = "cancelled" if self.cancelled_after else self.said[min(self.polls, len(self.said) - 1)]
        self.polls += 1
        return web.json_response({"status": said}, status=said if isinstance(said, int) else 200)

    async def cancel(self, request: web.Request) -> web.Response:
        self.cancelled_after = self.polls
        await asyncio.sleep(0.1)  # so that a load can end meanwhile
        return web.json_response({})

    @asynccontextmanager
    async def beside(self, folder: Path) -> AsyncIterator[Job]:
        app = web.Application()
        app.router.add_post("/v1/files", self.made)
        app.router.add_post("/v1/fine_tuning/jobs", self.made)
        app.router.add_get("/v1/fine_tuning/jobs/one", self.job)
        app.router.add_post("/v1/fine_tuning/jobs/one/cancel", self.cancel)
        (folder / "train.jsonl").write_text("{}")
        async with TestServer(app) as running:
            wanted = FineTuning(data=folder / "train.jsonl", after=0.0)
            async with beside(wanted, str(running.make_url("/")), "base", None) as job:
                yield job


async def test_a_job_that_ends_before_the_load_ran_until_then(tmp_path: Path) -> None:
    async with Jobs("queued", "running", "running", "succeeded").beside(tmp_path) as job:
        await asyncio.sleep(0.5)
    assert job.told == "fine-tuning job: succeeded"
    assert job.running_since is not None
    assert job.running_until is not None
    assert 0.0 < job.running_until - job.running_since < 0.4


async def test_a_job_is_followed_though_a_poll_fails(tmp_path: Path) -> None:
    jobs = Jobs("running", *[500] * (LOST_AFTER - 1), "running", *[500] * (LOST_AFTER - 1), "running")
    async with jobs.beside(tmp_path) as job:
        while jobs.polls <= 2 * LOST_AFTER:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert jobs.cancelled_after is None
    assert job.told == "fine-tuning job: running until it was cancelled"


async def test_a_job_that_is_lost_sight_of_is_cancelled_to_the_end_though_the_load_ends_before(tmp_path: Path) -> None:
    jobs = Jobs("running", 500)
    async with jobs.beside(tmp_path) as job:
        while not jobs.cancelled_after:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert jobs.cancelled_after == 1 + LOST_AFTER
        assert job.running_until is not None
    assert "running until it was cancelled (GET /v1/fine_tuning/jobs/one answers 500" in job.told


async def test_a_server_without_jobs_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    async with TestServer(web.Application()) as running:
        wanted = FineTuning(data=tmp_path / "train.jsonl", after=0.0)
        async with beside(wanted, str(running.make_url("/")), "base", None) as job:
            await asyncio.sleep(0.2)
    assert job.told.startswith("fine-tuning job: not started (POST /v1/files answers 404")
    assert job.running_since is None
