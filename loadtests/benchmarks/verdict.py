"""Compare the three example adapters with the best prompt of the base, on a server started for it: `make verdict`."""

import asyncio
import signal
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.benchmark_parts import server_setup
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.markdown import write_tables
from loramux_loadtests.compare.reading import CompareOptions
from loramux_loadtests.compare.runner import RunSettings, parse_passes
from loramux_loadtests.compare.session import compare_all, stderr
from loramux_loadtests.compare.summary import ComparisonSummary
from loramux_loadtests.servers import ServerFailedError, ServerSetup, loramux_spec, register_adapters, running

EXAMPLES = Path(__file__).parents[2] / "adapters" / "loramux_adapters" / "examples"
NAMES = ("support-intent", "order-json", "house-tone")
PRICES = Path(__file__).with_name("prices.yaml")


def main(
    url: Annotated[str | None, typer.Option(help="Server with the examples.", show_default="starts one")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of items of each example.")] = 200,
    passes: Annotated[str, typer.Option(help="State of the prefix cache: cold, warm or both.")] = "cold,warm",
    record: Annotated[bool, typer.Option(help="Write the results to the examples and the READMEs.")] = True,
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for reports; each goes to OUTPUT/NAME.")] = Path(
        "comparisons"
    ),
) -> None:
    """Compare each example's adapter with the best of several prompts of the base, and write the tables of the READMEs.

    The prompts are the adapter's own, instructions, and instructions with a few and with many examples; a part of the
    items chooses among them. Run it again to resume an interrupted run.
    """
    # SIGTERM must stop our server too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = RunSettings(passes=parse_passes(passes), concurrency=8)
    options = CompareOptions(
        url=url or "", server="loramux", prices=PRICES, limit=limit, output=output, settings=settings
    )
    sources = [EXAMPLES / name for name in NAMES]
    try:
        code, summaries = compare_all(sources, options) if url else _on_own_server(sources, options)
        if not code and record:
            record_results(summaries)
    except (ServerFailedError, ComparisonError) as error:
        stderr.print(str(error), style="red", markup=False)
        code = 2
    raise typer.Exit(code)


def _on_own_server(sources: list[Path], options: CompareOptions) -> tuple[int, list[ComparisonSummary]]:
    # Preparing the base needs an event loop of its own.
    setup = replace(server_setup(None, ()), adapters={path.name: path for path in sources})
    return asyncio.run(_run_with_server(setup, sources, options))


async def _run_with_server(
    setup: ServerSetup, sources: list[Path], options: CompareOptions
) -> tuple[int, list[ComparisonSummary]]:
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loramux-verdict-")))
        stderr.print("starting loramux")
        server = await stack.enter_async_context(running(loramux_spec(setup, scratch / "data"), scratch / "log"))
        await register_adapters(server.url, setup.adapters)
        # The comparison has an event loop of its own.
        return await asyncio.to_thread(compare_all, sources, replace(options, url=server.url))


def record_results(summaries: list[ComparisonSummary]) -> None:
    """Write each example's results.json and README, and all tables to the READMEs above.

    Raises:
        ComparisonError: a README can't be read, or has no result marks.
    """
    for summary in summaries:
        folder = EXAMPLES / summary.name
        (folder / "results.json").write_text(summary.model_dump_json(indent=2) + "\n")
        write_tables(folder / "README.md", [summary])
    for path in (EXAMPLES / "README.md", EXAMPLES.parents[2] / "README.md"):
        write_tables(path, summaries, brief=True)


if __name__ == "__main__":
    typer.run(main)
