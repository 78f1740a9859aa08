"""A fine-tuning job during a load, over OpenAI's API: started in the middle, cancelled at the end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.scenario import FineTuningOptions

POLL_INTERVAL_S = 0.5
MAX_FAILED_POLLS = 5
"""Failed polls in a row after which the job is given up, because its state is unknown."""
CANCEL_TIMEOUT_S = 60.0
FINAL_STATUSES = ("succeeded", "failed", "cancelled")
_FAILURES = (aiohttp.ClientError, LoadTestError, TimeoutError, OSError, ValueError)


@dataclass
class TuningJob:
    """The state of a job. Times are of `time.monotonic`."""

    running_since: float | None = None
    running_until: float | None = None
    """When it reached a final status, or was given up."""
    status: str = "not started"
    error: str | None = None
    """Why there is no job, or why it was given up."""

    @property
    def description(self) -> str:
        """The job's line in a report."""
        return f"fine-tuning job: {self.status}" + (f" ({self.error})" if self.error else "")


@dataclass
class _Api:
    session: aiohttp.ClientSession
    root: str

    async def call(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        async with self.session.request(method, f"{self.root}/v1/{path}", allow_redirects=False, **given) as response:
            text = await response.text(errors="replace")
        if response.status >= 400:
            raise LoadTestError(f"{method} /v1/{path} answers {response.status}: {text[:200]}")
        body = parse_json_object(text)
        if body is None:
            raise LoadTestError(f"{method} /v1/{path} does not answer with a JSON object")
        return body


@asynccontextmanager
async def job_during_load(
    options: FineTuningOptions, url: str, model: str, api_key: str | None
) -> AsyncIterator[TuningJob]:
    """Run a job from `options.after` seconds on until the context ends.

    If the server can't run it, the job's `error` says why; the load goes on.
    """
    job = TuningJob()
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=120)) as session:
        task = asyncio.create_task(_run_job(job, _Api(session, url.rstrip("/").removesuffix("/v1")), options, model))
        try:
            yield job
        finally:
            if job.running_until is None:  # otherwise wait for the cancellation
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _run_job(job: TuningJob, api: _Api, options: FineTuningOptions, model: str) -> None:
    await asyncio.sleep(options.after)
    try:
        form = aiohttp.FormData({"purpose": "fine-tune"})
        form.add_field("file", options.data.read_bytes(), filename="train.jsonl")
        file = await api.call("POST", "files", data=form)
        created = await api.call("POST", "fine_tuning/jobs", json={"model": model, "training_file": file["id"]})
        path = f"fine_tuning/jobs/{created['id']}"
        try:
            await _poll_until_final(job, api, path)
        finally:
            job.running_until = time.monotonic()
            await _cancel(job, api, path)
    except (*_FAILURES, KeyError) as error:
        job.error = str(error) or type(error).__name__


async def _poll_until_final(job: TuningJob, api: _Api, path: str) -> None:
    """Poll the job until it is final; raises one of _FAILURES after too many failed polls."""
    failed_polls = 0
    while job.status not in FINAL_STATUSES:
        try:
            job.status, failed_polls = str((await api.call("GET", path)).get("status")), 0
        except _FAILURES:
            failed_polls += 1
            if failed_polls == MAX_FAILED_POLLS:
                raise
        if job.status == "running" and job.running_since is None:
            job.running_since = time.monotonic()
        await asyncio.sleep(POLL_INTERVAL_S)


async def _cancel(job: TuningJob, api: _Api, path: str) -> None:
    """Cancel a job that is not final, and wait until it is, so that the next measurement has the machine to itself."""
    if job.status in FINAL_STATUSES:
        return
    job.status = f"{job.status} until it was cancelled"
    await api.call("POST", f"{path}/cancel")
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while time.monotonic() < deadline:
        if (await api.call("GET", path)).get("status") in FINAL_STATUSES:
            return
        await asyncio.sleep(POLL_INTERVAL_S)
