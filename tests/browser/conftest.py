"""A tiny server, and a real browser that opens its page."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from loramux_server import database as db
from loramux_server.base_model import ResolvedBase
from tests.helpers.chromium import FLAGS, find_chromium
from tests.helpers.evaluated_jobs import add_version_of_job, evaluated_job
from tests.helpers.tiny_server import TinyServer, tiny_server
from tests.helpers.usage_history import write_usage_history

PRICES = {"base": {"input": 0.15, "output": 0.6}, "gpu_hour": 2.5}
EVALUATED_AT = 1_700_000_000.0
"""The time of the evaluations of adapters, 2023-11-14."""


@dataclass
class Look:
    """A page in a browser, its server, and the browser's errors and requests."""

    page: Page
    server: TinyServer
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def usage(self, **query: Any) -> Any:
        """Return the usage report of the API."""
        return (await self.server.http.get("/admin/usage", params={"limit": 10_000} | query)).json()

    async def settle(self) -> None:
        """Wait for the charts, which are drawn last."""
        await self.page.wait_for_selector("#latency-chart .main-svg")


Looking = Callable[..., AbstractAsyncContextManager[Look]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """One browser for all tests; each has its own profile."""
    chromium = find_chromium()
    if isinstance(chromium, str):
        pytest.skip(chromium)
    environment: dict[str, str | float | bool] = {
        **os.environ,
        **chromium.environment,
        "HOME": str(tmp_path_factory.mktemp("home")),
    }
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium.path, args=FLAGS, env=environment)
        yield started
        await started.close()


@pytest.fixture
def looking(tmp_path: Path, tiny_base: ResolvedBase, browser: Browser) -> Looking:
    """Return a function that opens the page of a server with usage of the base and of the adapters `names`."""

    @contextlib.asynccontextmanager
    async def look(
        names: Sequence[str] = (),
        requests: int = 0,
        *,
        priced: bool = True,
        prices: Mapping[str, Any] = PRICES,
        evaluated: Sequence[str] = (),
        keys: tuple[str, ...] = (),
        registered: Sequence[str] = (),
        used: Sequence[str] = (),
        **context: Any,
    ) -> AsyncIterator[Look]:
        async with tiny_server(tmp_path, tiny_base, keys=keys, proof=False, prices=prices) as server:
            database = db.create_engine(server.settings.database_url)
            write_usage_history(database, list(names), requests, priced=priced)
            for name in evaluated:
                await add_version_of_job(server, name, evaluated_job(database, name, EVALUATED_AT))
            for name in (*registered, *used):
                await server.add(name)
            for name in used:
                await server.chat(name)
            await _wait_for_ledger(server, requests + len(used))
            page = await browser.new_page(**{"viewport": {"width": 1440, "height": 900}} | context)
            seen = Look(page, server)
            _listen(seen)
            await page.goto(f"{server.url}/dashboard")
            try:
                yield seen
            finally:
                await page.close()

    return look


async def _wait_for_ledger(server: TinyServer, requests: int) -> None:
    """Wait until the ledger has this many requests, so that the page does not change during the test."""
    async with asyncio.timeout(10):
        while requests:
            total = (await server.http.get("/admin/usage", headers=server.client.auth_headers)).json()["total"]
            if total and total["requests"] == requests:
                return
            await asyncio.sleep(0.05)


def _listen(look: Look) -> None:
    """Record the browser's errors, policy violations included; a server without jobs is not an error."""
    page = look.page
    page.on("request", lambda request: look.asked.append(request.url))
    page.on("pageerror", lambda error: look.complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            look.complaints.append(message.text)
            if message.type in ("error", "warning") and "/v1/fine_tuning/jobs" not in message.location.get("url", "")
            else None
        ),
    )
