"""How soon /dashboard shows a million requests, in a real browser: `make bench-page`."""

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from playwright.async_api import Browser, async_playwright
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.overhead.command import RESULTS
from benchmarks.progress import Steps
from loramux_adapters.evaluation.statistics import spread
from loramux_loadtests.report import Finding, Report, table, write
from loramux_server import database as db
from tests.helpers.chromium import FLAGS, find_chromium
from tests.helpers.tiny_server import tiny_server, write_base
from tests.helpers.usage_history import fill

RECORDS = {8: 1_000_000, 500: 100_000}
"""So many requests on so many adapters."""
HOURS = 24
LOOKS = 5
ANSWER_AT_MOST, PAINT_AT_MOST = 1.0, 2.0


async def look(browser: Browser, url: str) -> tuple[float, float]:
    """Seconds that the comparison takes to be answered, and the page to show it."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        started = time.monotonic()
        (await http.get("/admin/usage", params={"group_by": "adapter", "limit": 10_000})).raise_for_status()
        answered = time.monotonic() - started
    page = await browser.new_page(viewport={"width": 1440, "height": 900})
    started = time.monotonic()
    await page.goto(f"{url}/dashboard", wait_until="commit")
    await page.wait_for_selector("#rows th")
    painted = time.monotonic() - started
    await page.close()
    return answered, painted


async def measure(browser: Browser, folder: Path, adapters: int, records: int) -> list[tuple[float, float]]:
    """Look at a server with so many requests."""
    names = [f"customer-{number:03d}" for number in range(adapters)]
    async with tiny_server(folder, write_base(folder / "base"), proof=False) as server:
        fill(db.create_engine(server.settings.database_url), names, records, HOURS)
        return [await look(browser, server.url) for _ in range(LOOKS)]


async def report(scratch: Path, steps: Steps) -> Report:
    """Measure with few adapters and many requests, and with many adapters."""
    chromium = find_chromium()
    if isinstance(chromium, str):
        raise typer.BadParameter(chromium)
    steps.expect(len(RECORDS))
    rows, findings = [], []
    async with async_playwright() as playwright:
        environment: dict[str, str | float | bool] = {**os.environ, **chromium.environment, "HOME": str(scratch)}
        browser = await playwright.chromium.launch(executable_path=chromium.path, args=FLAGS, env=environment)
        for adapters, records in RECORDS.items():
            steps.begin(f"{records:,} requests on {adapters} adapters")
            answered, painted = zip(*await measure(browser, scratch / str(adapters), adapters, records), strict=True)
            what = f"{records:,} requests, {adapters} adapters"
            findings += [
                Finding(f"{what}: /admin/usage by adapter", spread(answered), "s", at_most=ANSWER_AT_MOST),
                Finding(f"{what}: the page shows it", spread(painted), "s", at_most=PAINT_AT_MOST),
            ]
            rows.append({"adapters": adapters, "requests": records, "answered": answered, "painted": painted})
        await browser.close()
    return Report(
        "The page",
        f"Requests of the last {HOURS} hours on the base and on adapters, in SQLite. From the begin of the navigation "
        "in Chromium until the table has its rows; charts come later.",
        findings,
        {"looks": LOOKS},
        rows,
    )


def main(results: Annotated[Path, typer.Option(help="Where the report is written.")] = RESULTS) -> None:
    """Look at large ledgers, and exit with 1 if a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch, Steps() as steps:
        found = asyncio.run(report(Path(scratch), steps))
    write(found, results, "page")
    Console().print(Markdown(table(found)))
    if not found.met:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
