"""What fine-tuning brings and what it costs who is served meanwhile: `make bench-finetune`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.benchmark_parts import Part, run, setup_of
from benchmarks.bursts import Traffic
from benchmarks.finetune.during_training import beside
from benchmarks.finetune.finetune_quality import Lesson, learn
from benchmarks.overhead.command import RESULTS

EXAMPLES = Path(__file__).parents[3] / "adapters" / "loramux_adapters" / "examples"
TRAFFIC = Traffic(streams=4, tokens=256)
"""Bursts of several seconds, so that a job that gets little still ends some steps in one."""
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
    pairs: Annotated[int, typer.Option(min=1, help="How often serving is measured with a job and without.")] = 5,
    results: Annotated[Path, typer.Option(help="Where the reports are written.")] = RESULTS,
) -> None:
    """Train with default settings and score what serves then; measure serving beside a job. Exit with 1 on a miss.

    The parts are quality and beside. Each writes finetune-PART.json and finetune-PART.md as soon as it is done.
    """
    lessons = [Lesson(folder, _goals(goal or [], folder.name)) for folder in data or DATA]
    known: Mapping[str, Part] = {
        "quality": partial(learn, lessons=lessons, limit=limit),
        "beside": partial(beside, data=lessons[0].folder / "train.jsonl", pairs=pairs, traffic=TRAFFIC),
    }
    raise typer.Exit(run("finetune", known, only or [], partial(setup_of, base, engine or []), results))


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
