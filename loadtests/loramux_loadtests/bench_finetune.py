"""What fine-tuning brings and what it costs who is served meanwhile: `make bench-finetune`."""

import asyncio
import signal
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown

from loramux_loadtests.bench_churn import suited_dtype
from loramux_loadtests.beside import beside
from loramux_loadtests.bursts import BurstFailedError, Traffic
from loramux_loadtests.lessons import Lesson, learn
from loramux_loadtests.overhead import ENGINE, ENVIRONMENT, RESULTS, argument, demo_base
from loramux_loadtests.report import Report, table, write
from loramux_loadtests.servers import ServerFailedError, Setup
from loramux_loadtests.steps import Steps

Part = Callable[[Setup, Path, Steps], Coroutine[Any, Any, Report]]

EXAMPLES = Path(__file__).parents[2] / "adapters" / "examples"
DATA = (EXAMPLES / "support-intent", EXAMPLES / "order-json")


def main(
    only: Annotated[list[str] | None, typer.Option(metavar="PART", help="Only this part; may be repeated.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="A folder with train.jsonl and test.jsonl; may be repeated.")
    ] = None,
    goal: Annotated[
        list[str] | None, typer.Option(metavar="DATA:SCORE=SHARE", help="The least share, such as cards:exact=0.85.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of vLLM, such as dtype=float32.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The base's folder; the demo's, if it is not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first so many test items.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="How often serving is measured with a job and without.")] = 7,
    results: Annotated[Path, typer.Option(help="Where the reports are written.")] = RESULTS,
) -> None:
    """Train with default settings and score what serves then; measure serving beside a job. Exit with 1 on a miss.

    The parts are quality and beside. Each writes finetune-PART.json and finetune-PART.md as soon as it is done.
    """
    # Whoever ends us politely must not leave our servers running, which Ctrl-C's way out stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lessons = [Lesson(folder, _goals(goal or [], folder.name)) for folder in data or DATA]
    known: Mapping[str, Part] = {
        "quality": partial(learn, lessons=lessons, limit=limit),
        "beside": partial(beside, data=lessons[0].folder / "train.jsonl", pairs=pairs, traffic=Traffic(streams=4)),
    }
    if unknown := set(only or ()) - known.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose of {', '.join(known)}", param_hint="--only")
    own = {"dtype": suited_dtype()} | dict(map(argument, engine or []))
    try:
        setup = Setup(base or demo_base(), {}, ENGINE | own, ENVIRONMENT)
        codes = [_measured(name, known[name], setup, results) for name in only or known]
    except (ServerFailedError, BurstFailedError, OSError) as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    raise typer.Exit(max(codes))


def _measured(name: str, part: Part, setup: Setup, results: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="loramux-bench-") as scratch, Steps() as steps:
        report = asyncio.run(part(setup, Path(scratch), steps))
    write(report, results, f"finetune-{name}")
    Console().print(Markdown(table(report)))
    return 0 if report.met else 1


def _goals(given: Sequence[str], data: str) -> dict[str, float]:
    """The goals of one data set; typer.BadParameter for what is none."""
    goals = {}
    for words in given:
        of_data, _, rest = words.partition(":")
        score, _, share = rest.partition("=")
        try:
            value = float(share)
        except ValueError as error:
            raise typer.BadParameter(f"{words}: write DATA:SCORE=SHARE", param_hint="--goal") from error
        if of_data == data:
            goals[score] = value
    return goals


if __name__ == "__main__":
    typer.run(main)
