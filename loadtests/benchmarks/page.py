"""Load time of /dashboard with a million requests, in a real browser: `make bench-page`."""

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from playwright.async_api import Browser, async_playwright

from benchmarks.command import RESULTS, run_benchmark
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from loramux_server import database as db
from tests.helpers.chromium import FLAGS, find_chromium
from tests.helpers.tiny_server import tiny_server, write_base
from tests.helpers.usage_history import write_usage_history

RECORDS = {8: 1_000_000, 500: 100_000}
"""Number of requests by number of adapters."""
HOURS = 24
REPETITIONS = 5
MAX_ANSWER_S, MAX_PAINT_S = 1.0, 2.0


async def measure_once(browser: Browser, url: str) -> tuple[float, float]:
    """Return the seconds until /admin/usage answers, and until the page shows its table."""
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
    """Measure a server with this many adapters and usage records."""
    names = [f"customer-{number:03d}" for number in range(adapters)]
    async with tiny_server(folder, write_base(folder / "base"), proof=False) as server:
        write_usage_history(db.create_engine(server.settings.database_url), names, records, HOURS)
        return [await measure_once(browser, server.url) for _ in range(REPETITIONS)]


async def _measure_all(scratch: Path, progress: StepProgress) -> BenchmarkReport:
    """Measure few adapters with many requests, and many adapters."""
    chromium = find_chromium()
    if isinstance(chromium, str):
        raise typer.BadParameter(chromium)
    progress.set_total(len(RECORDS))
    rows, metrics = [], []
    async with async_playwright() as playwright:
        environment: dict[str, str | float | bool] = {**os.environ, **chromium.environment, "HOME": str(scratch)}
        browser = await playwright.chromium.launch(executable_path=chromium.path, args=FLAGS, env=environment)
        for adapters, records in RECORDS.items():
            progress.begin(f"{records:,} requests on {adapters} adapters")
            answered, painted = zip(*await measure(browser, scratch / str(adapters), adapters, records), strict=True)
            case = f"{records:,} requests, {adapters} adapters"
            metrics += [
                Metric(f"{case}: /admin/usage by adapter", spread(answered), "s", at_most=MAX_ANSWER_S),
                Metric(f"{case}: page shows the table", spread(painted), "s", at_most=MAX_PAINT_S),
            ]
            rows.append({"adapters": adapters, "requests": records, "answered": answered, "painted": painted})
        await browser.close()
    return BenchmarkReport(
        "The dashboard",
        f"Requests of the last {HOURS} hours on the base and on adapters, in SQLite. Measured from the "
        "start of the navigation "
        "in Chromium until the table has its rows, without the charts.",
        metrics,
        {"looks": REPETITIONS},
        rows,
    )


def main(results: Annotated[Path, typer.Option(help="Folder for the report.")] = RESULTS) -> None:
    """Measure the dashboard with large ledgers. Exit code: 0; 1 if a goal is missed, 2 if the benchmark failed."""

    def measure_dashboard(scratch: Path) -> BenchmarkReport:
        with StepProgress() as progress:
            return asyncio.run(_measure_all(scratch, progress))

    raise typer.Exit(run_benchmark("page", measure_dashboard, results))


if __name__ == "__main__":
    typer.run(main)
