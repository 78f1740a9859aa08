"""A tiny server and a real browser that looks at its page."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
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
from tests.helpers.tiny_server import TinyServer, tiny_server
from tests.helpers.usage_history import fill


@dataclass
class Look:
    """A page in a browser, the server that it shows, and what went wrong while it did."""

    page: Page
    server: TinyServer
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def usage(self, **question: Any) -> Any:
        """What the API says."""
        return (await self.server.http.get("/admin/usage", params={"limit": 10_000} | question)).json()

    async def settle(self) -> None:
        """Wait for the charts, which come last."""
        await self.page.wait_for_selector("#ratios-chart .main-svg")


Looking = Callable[..., AbstractAsyncContextManager[Look]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """One browser for all tests, each of which has a profile of its own."""
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
    """Open the page of a server whose ledger has requests of the base and of the adapters `names`."""

    @contextlib.asynccontextmanager
    async def look(
        names: Sequence[str] = (),
        requests: int = 0,
        *,
        priced: bool = True,
        keys: tuple[str, ...] = (),
        registered: Sequence[str] = (),
        used: Sequence[str] = (),
        **context: Any,
    ) -> AsyncIterator[Look]:
        async with tiny_server(tmp_path, tiny_base, keys=keys, proof=False) as server:
            fill(db.create_engine(server.settings.database_url), list(names), requests, priced=priced)
            for name in (*registered, *used):
                await server.add(name)
            for name in used:
                await server.chat(name)
            await _kept(server, requests + len(used))
            page = await browser.new_page(**{"viewport": {"width": 1440, "height": 900}} | context)
            seen = Look(page, server)
            _listen(seen)
            await page.goto(f"{server.url}/dashboard")
            try:
                yield seen
            finally:
                await page.close()

    return look


async def _kept(server: TinyServer, requests: int) -> None:
    """Wait until the ledger has so many requests: what is shown must not change while it is looked at."""
    async with asyncio.timeout(10):
        while requests:
            total = (await server.http.get("/admin/usage", headers=server.client.auth_headers)).json()["total"]
            if total and total["requests"] == requests:
                return
            await asyncio.sleep(0.05)


def _listen(look: Look) -> None:
    """Note what the browser complains of, violations of the policy among it; that there are no jobs is no complaint."""
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
