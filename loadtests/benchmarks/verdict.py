"""Is a fine-tune worth it? Asked of the three examples, on a server of its own: `make verdict`."""

import asyncio
import signal
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.benchmark_parts import setup_of
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.markdown import write_tables
from loramux_loadtests.compare.runner import Settings
from loramux_loadtests.compare.session import Asked, compare_all, words
from loramux_loadtests.compare.summary import Summary
from loramux_loadtests.servers import ServerFailedError, loramux, register, running

EXAMPLES = Path(__file__).parents[2] / "adapters" / "loramux_adapters" / "examples"
NAMES = ("support-intent", "order-json", "house-tone")
PRICES = Path(__file__).with_name("prices.yaml")


def main(
    url: Annotated[str | None, typer.Option(help="A server that has the examples.", show_default="starts one")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items; nothing is recorded.")] = None,
    output: Annotated[Path, typer.Option(file_okay=False, help="Reports go to OUTPUT/NAME.")] = Path("comparisons"),
) -> None:
    """Compare each example's adapter with the prompted base, and write the tables of the READMEs.

    An interrupted run goes on when it is started again.
    """
    # Whoever ends us politely must not leave our server running, which Ctrl-C's way out stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings(passes=("cold", "warm"), at_once=8)
    asked = Asked(url=url or "", server="loramux", prices=PRICES, limit=limit, output=output, settings=settings)
    sources = [EXAMPLES / name for name in NAMES]
    try:
        code, found = compare_all(sources, asked) if url else asyncio.run(_on_own_server(sources, asked))
        if not code and limit is None:
            record(found)
    except (ServerFailedError, ComparisonError) as error:
        words.print(str(error), style="red", markup=False)
        code = 2
    raise typer.Exit(code)


async def _on_own_server(sources: list[Path], asked: Asked) -> tuple[int, list[Summary]]:
    setup = setup_of(None, ())
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loramux-verdict-")))
        words.print("starting loramux")
        allowed = replace(setup, adapters={path.name: path for path in sources})
        server = await stack.enter_async_context(running(loramux(allowed, scratch / "data"), scratch / "log"))
        await register(server.url, allowed.adapters)
        # The comparison has an event loop of its own.
        return await asyncio.to_thread(compare_all, sources, replace(asked, url=server.url))


def record(found: list[Summary]) -> None:
    """Write each example's results.json and README, and all tables to the READMEs above; raises ComparisonError."""
    for summary in found:
        folder = EXAMPLES / summary.name
        (folder / "results.json").write_text(summary.model_dump_json(indent=2) + "\n")
        write_tables(folder / "README.md", [summary])
    for path in (EXAMPLES / "README.md", EXAMPLES.parents[2] / "README.md"):
        write_tables(path, found, brief=True)


if __name__ == "__main__":
    typer.run(main)
