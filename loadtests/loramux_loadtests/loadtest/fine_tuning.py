"""A fine-tuning job on the server under load, by OpenAI's API: started in the middle, cancelled at the end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.scenario import FineTuning

POLL_S = 0.5
LOST_AFTER = 5
"""So many polls in a row that failed end a job, of which nobody knows any more whether it runs."""
CANCELLED_WITHIN_S = 60.0
OVER = ("succeeded", "failed", "cancelled")
_FAILURES = (aiohttp.ClientError, LoadTestError, TimeoutError, OSError, ValueError)


@dataclass
class Job:
    """What became of a job. Moments are of `time.monotonic`."""

    running_since: float | None = None
    running_until: float | None = None
    """When it was over, or no longer followed."""
    status: str = "not started"
    trouble: str | None = None
    """Why there is no job, or why it was lost sight of, in words."""

    @property
    def told(self) -> str:
        """What a report says of it."""
        return f"fine-tuning job: {self.status}" + (f" ({self.trouble})" if self.trouble else "")


@dataclass
class _Api:
    session: aiohttp.ClientSession
    root: str

    async def call(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        async with self.session.request(method, f"{self.root}/v1/{path}", allow_redirects=False, **given) as response:
            text = await response.text(errors="replace")
        if response.status >= 400:
            raise LoadTestError(f"{method} /v1/{path} answers {response.status}: {text[:200]}")
        body = json.loads(text)
        if not isinstance(body, dict):
            raise LoadTestError(f"{method} /v1/{path} answers with something else than an object")
        return body


@asynccontextmanager
async def beside(wanted: FineTuning, url: str, model: str, api_key: str | None) -> AsyncIterator[Job]:
    """Have a job from `wanted.after` seconds on until the context ends. A server without jobs is told, not an error."""
    job = Job()
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=120)) as session:
        task = asyncio.create_task(_follow(job, _Api(session, url.rstrip("/").removesuffix("/v1")), wanted, model))
        try:
            yield job
        finally:
            if job.running_until is None:  # else the job is over, or being cancelled, which is waited for
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _follow(job: Job, api: _Api, wanted: FineTuning, model: str) -> None:
    await asyncio.sleep(wanted.after)
    try:
        form = aiohttp.FormData({"purpose": "fine-tune"})
        form.add_field("file", wanted.data.read_bytes(), filename="train.jsonl")
        file = await api.call("POST", "files", data=form)
        made = await api.call("POST", "fine_tuning/jobs", json={"model": model, "training_file": file["id"]})
        path = f"fine_tuning/jobs/{made['id']}"
        try:
            await _watch(job, api, path)
        finally:
            job.running_until = time.monotonic()
            await _end(job, api, path)
    except (*_FAILURES, KeyError) as error:
        job.trouble = str(error) or type(error).__name__


async def _watch(job: Job, api: _Api, path: str) -> None:
    """Follow the job's status until it is over; raises one of _FAILURES if it is lost sight of."""
    in_vain = 0
    while job.status not in OVER:
        try:
            job.status, in_vain = str((await api.call("GET", path)).get("status")), 0
        except _FAILURES:
            in_vain += 1
            if in_vain == LOST_AFTER:
                raise
        if job.status == "running" and job.running_since is None:
            job.running_since = time.monotonic()
        await asyncio.sleep(POLL_S)


async def _end(job: Job, api: _Api, path: str) -> None:
    """Cancel a job that is not over, and wait until it is: the next measurement wants the machine for itself."""
    if job.status in OVER:
        return
    job.status = f"{job.status} until it was cancelled"
    await api.call("POST", f"{path}/cancel")
    deadline = time.monotonic() + CANCELLED_WITHIN_S
    while time.monotonic() < deadline:
        if (await api.call("GET", path)).get("status") in OVER:
            return
        await asyncio.sleep(POLL_S)
