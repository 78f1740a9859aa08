"""Quality of fine-tuning, and serving during training: `python -m benchmarks.finetune`, or `make bench-finetune`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.benchmark_parts import BenchmarkPart, run_parts, server_setup
from benchmarks.bursts import BurstTraffic
from benchmarks.command import RESULTS
from benchmarks.finetune.during_training import measure_during_training
from benchmarks.finetune.estimates import measure_estimates
from benchmarks.finetune.finetune_quality import DataSet, measure_quality
from benchmarks.finetune.further_training import measure_further_training
from benchmarks.finetune.preference_quality import measure_preferences
from benchmarks.finetune.tool_quality import measure_tools
from loramux_loadtests.examples import EXAMPLES

TRAFFIC = BurstTraffic(streams=4, tokens=256)
"""Bursts of several seconds, so that even a job with low priority finishes some steps during one."""
ESTIMATED_EXAMPLES = (120, 400, 240)
"""Examples of three jobs, one after another."""
DATA = (EXAMPLES / "support-intent", EXAMPLES / "order-json")


def main(
    only: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Measure only this part. May be repeated.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder with train.jsonl and test.jsonl. May be repeated.")
    ] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(metavar="DATA:SCORE=SHARE", help="Minimum share, such as cards:exact=0.85. May be repeated."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="vLLM argument, such as dtype=float32. May be repeated."),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model; default: the demo's base.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Limit to N test items.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="How often serving is measured with and without a job.")] = 5,
    results: Annotated[Path, typer.Option(help="Folder for the reports.")] = RESULTS,
) -> None:
    """Train with default settings and score the adapters; measure serving during training.

    The parts are quality, estimates (of the durations of jobs), beside (serving during training), tools (calls of
    tools), preferences (DPO), and with --data further (going on from an adapter of the first folder). Each writes
    finetune-PART.json and finetune-PART.md as soon as it is done. Exit code: 0; 1 if a goal is missed, 2 if a part
    failed.
    """
    data_sets = [DataSet(folder, _goals(goal or [], folder.name)) for folder in data or DATA]
    parts: dict[str, BenchmarkPart] = {
        "quality": partial(measure_quality, data_sets=data_sets, limit=limit),
        "estimates": partial(
            measure_estimates, data=data_sets[0].folder / "train.jsonl", examples=ESTIMATED_EXAMPLES, held_out=20
        ),
        "beside": partial(
            measure_during_training, data=data_sets[0].folder / "train.jsonl", pairs=pairs, traffic=TRAFFIC
        ),
        "tools": measure_tools,
        "preferences": measure_preferences,
    }
    # Needs data that are not in the repository: cards, or others with more than 300 examples.
    parts |= {"further": partial(measure_further_training, data=data[0])} if data else {}
    raise typer.Exit(run_parts("finetune", parts, only or [], partial(server_setup, base, engine or []), results))


def _goals(given: Sequence[str], data: str) -> dict[str, float]:
    """Parse the goals of one data set; raises typer.BadParameter."""
    goals = {}
    for goal in given:
        goal_data, _, rest = goal.partition(":")
        score, _, share = rest.partition("=")
        try:
            value = float(share)
        except ValueError as error:
            raise typer.BadParameter(
                f"invalid goal {goal}; expected DATA:SCORE=SHARE, SHARE being a number", param_hint="--goal"
            ) from error
        if goal_data == data:
            goals[score] = value
    return goals
