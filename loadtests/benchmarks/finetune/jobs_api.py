"""Fine-tuning jobs on a server: made and watched over HTTP, as any client would."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from loramux_loadtests.servers import ServerFailedError

POLL_S = 0.5

Job = Mapping[str, Any]


@dataclass(frozen=True)
class Tuner:
    """A server that makes fine-tunes of `base`."""

    session: aiohttp.ClientSession
    base: str

    async def upload(self, file: Path) -> str:
        """Return the id of a training file; ServerFailedError if the server refuses it."""
        form = aiohttp.FormData({"purpose": "fine-tune"})
        form.add_field("file", await asyncio.to_thread(file.read_bytes), filename=file.name)
        return str((await self._ask("POST", "/v1/files", data=form))["id"])

    async def create(self, training_file: str, **options: Any) -> str:
        """Begin a job with default settings but for `options`, and return its id."""
        body = {"model": self.base, "training_file": training_file, **options}
        return str((await self._ask("POST", "/v1/fine_tuning/jobs", json=body))["id"])

    async def job(self, job: str) -> Job:
        """How a job stands."""
        return await self._ask("GET", f"/v1/fine_tuning/jobs/{job}")

    async def move(self, job: str, verb: str) -> Job:
        """Pause, resume or cancel it."""
        return await self._ask("POST", f"/v1/fine_tuning/jobs/{job}/{verb}")

    async def until_steps(self, job: str, more: int) -> Job:
        """Wait until it has done so many more steps."""
        goal = (await self.job(job))["loramux"]["step"] + more
        while (found := await self.job(job))["loramux"]["step"] < goal:
            self._refuse_end(found)
            await asyncio.sleep(POLL_S)
        return found

    async def until_done(self, job: str) -> Job:
        """Wait until it has succeeded; ServerFailedError if it has not."""
        while (found := await self.job(job))["status"] != "succeeded":
            self._refuse_end(found)
            await asyncio.sleep(POLL_S)
        return found

    @staticmethod
    def _refuse_end(job: Job) -> None:
        if job["finished_at"]:
            raise ServerFailedError(f"the job ended as {job['status']}: {job['error']}")

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self.session.request(method, path, **options) as response:
            if response.status != 200:
                raise ServerFailedError(f"{method} {path}: {response.status} {(await response.text())[:300]}")
            answer: dict[str, Any] = await response.json()
            return answer
