"""Runs of the real trainer on a base of a few thousand parameters."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loramux_adapters.finetuning.events import TrainerEvent, parse_event
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer_process import LOG_FILE, TRAINER_COMMAND, TrainerLauncher
from loramux_adapters.finetuning.training_run import TrainingRun
from tests.helpers.tiny_base import DESCRIPTION, make_base

RECIPE = Recipe(
    rank=4,
    alpha=8,
    target_modules=("q_proj", "down_proj"),
    last_layers=2,
    epochs=5,
    batch_size=4,
    learning_rate=0.02,
)


def make_inputs(folder: Path) -> Path:
    """Write a base and a training file of ten conversations to the folder."""
    make_base(folder / "base")
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"number {i}"},
                {"role": "assistant", "content": "even" if i % 2 == 0 else "odd"},
            ]
        }
        for i in range(10)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def training_run(folder: Path, name: str = "out", **changes: Any) -> TrainingRun:
    """A run of 15 steps on the inputs in the folder."""
    run = TrainingRun(
        base=folder / "base",
        description=DESCRIPTION,
        data=folder / "train.jsonl",
        recipe=RECIPE,
        output=folder / name,
    )
    return run.model_copy(update=changes)


def train(run: TrainingRun) -> list[TrainerEvent]:
    """Train to the end; returns all events."""
    return asyncio.run(_events(run))


def first_event(run: TrainingRun) -> TrainerEvent:
    """Start training, and stop the trainer after its first event."""
    [event] = asyncio.run(_events(run, limit=1))
    return event


async def _events(run: TrainingRun, limit: int | None = None) -> list[TrainerEvent]:
    events: list[TrainerEvent] = []
    async with TrainerLauncher(priority="equal").launch(run, _work_folder(run)) as trainer:
        async for event in trainer.events():
            events.append(event)
            if len(events) == limit:
                break
    return events


def start(run: TrainingRun, command: Sequence[str] = TRAINER_COMMAND) -> "subprocess.Popen[str]":
    """Start a trainer process whose pipes the test handles itself; its standard error goes to a log."""
    run_file = _work_folder(run) / "run.json"
    run.write(run_file)
    with run_file.with_name(LOG_FILE).open("w") as log:
        return subprocess.Popen(
            [*command, str(run_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def wait_for(event: str, child: "subprocess.Popen[str]") -> None:
    """Read the trainer's output until an event of this kind."""
    for line in child.stdout or ():
        if parse_event(line).event == event:
            return
    assert isinstance(child.args, list)
    log = Path(child.args[-1]).with_name(LOG_FILE).read_text()
    raise AssertionError(f"the trainer exited with code {child.wait()} without the event {event!r}:\n{log[-2000:]}")


def _work_folder(run: TrainingRun) -> Path:
    folder = run.output.with_name(f"{run.output.name}-work")
    folder.mkdir(exist_ok=True)
    return folder
