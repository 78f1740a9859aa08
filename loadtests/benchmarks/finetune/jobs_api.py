"""Client for the fine-tuning jobs of a server."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from loramux_loadtests.servers import ServerFailedError

POLL_INTERVAL_S = 0.5

JobDocument = Mapping[str, Any]


@dataclass(frozen=True)
class JobsApi:
    """The fine-tuning API of a server, for jobs on the model `base`."""

    session: aiohttp.ClientSession
    base: str

    async def upload(self, file: Path) -> str:
        """Upload a training file, and return its id.

        Raises:
            ServerFailedError: the server rejects it.
        """
        form = aiohttp.FormData({"purpose": "fine-tune"})
        form.add_field("file", await asyncio.to_thread(file.read_bytes), filename=file.name)
        return str((await self._request("POST", "/v1/files", data=form))["id"])

    async def create(self, training_file: str, **options: Any) -> str:
        """Create a job with default settings apart from `options`, and return its id."""
        body = {"model": self.base, "training_file": training_file, **options}
        return str((await self._request("POST", "/v1/fine_tuning/jobs", json=body))["id"])

    async def estimate(self, training_file: str, **options: Any) -> JobDocument:
        """Return the plan of a job that is not created: its work, and how long it takes."""
        body = {"model": self.base, "training_file": training_file, **options}
        return await self._request("POST", "/admin/fine_tuning/estimate", json=body)

    async def job(self, job: str) -> JobDocument:
        """Return the state of a job."""
        return await self._request("GET", f"/v1/fine_tuning/jobs/{job}")

    async def post_action(self, job: str, action: str) -> JobDocument:
        """Pause, resume or cancel a job."""
        return await self._request("POST", f"/v1/fine_tuning/jobs/{job}/{action}")

    async def wait_for_steps(self, job: str, more: int) -> JobDocument:
        """Wait until a job has done `more` steps.

        Raises:
            ServerFailedError: the job ended before.
        """
        goal = (await self.job(job))["loramux"]["step"] + more
        while (found := await self.job(job))["loramux"]["step"] < goal:
            self._fail_if_finished(found)
            await asyncio.sleep(POLL_INTERVAL_S)
        return found

    async def wait_until_succeeded(self, job: str) -> JobDocument:
        """Wait until a job has succeeded.

        Raises:
            ServerFailedError: the job failed or was cancelled.
        """
        while (found := await self.job(job))["status"] != "succeeded":
            self._fail_if_finished(found)
            await asyncio.sleep(POLL_INTERVAL_S)
        return found

    @staticmethod
    def _fail_if_finished(job: JobDocument) -> None:
        if job["finished_at"]:
            raise ServerFailedError(f"the job ended as {job['status']}: {job['error']}")

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self.session.request(method, path, **options) as response:
            if response.status != 200:
                raise ServerFailedError(f"{method} {path}: {response.status} {(await response.text())[:300]}")
            answer: dict[str, Any] = await response.json()
            return answer
