"""`loramux train`: make an adapter on this machine, without a server."""

import shutil
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loramux_adapters.errors import AdapterError
from loramux_adapters.finetuning.datasets.conversations import read_dataset
from loramux_adapters.finetuning.errors import TrainerCrashed
from loramux_adapters.finetuning.events import Event, Finished, Started, Step, Validated
from loramux_adapters.finetuning.recipes.recipe import load_recipe
from loramux_adapters.finetuning.trainer_process import TrainingRun
from loramux_adapters.finetuning.trainer_process import train as run_trainer
from loramux_server.base_model import BaseError, ResolvedBase, resolve_base
from loramux_server.settings import SettingsError, load_settings

words = Console(stderr=True, markup=False, highlight=False)  # standard output is for --json
_GOES_ON = "interrupted: run the same command again, and it goes on"


def train(
    data: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="Training file: an OpenAI chat conversation a line (JSONL)."),
    ],
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder to write the adapter to.")],
    recipe: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Recipe (YAML).", show_default="chosen by the data")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A file like DATA that is not learned from.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    base: Annotated[str | None, typer.Option(help="Folder, Hub id or `demo`.", show_default="LORAMUX_BASE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the events as JSON, one a line.")] = False,
) -> None:
    """Train a LoRA adapter of the base on a file of conversations.

    The adapter learns what the assistant says in them, nothing else. A recipe holds rank, alpha, target_modules,
    last_layers, learning_rate, epochs, batch_size, max_length and seed; what it does not say has a good default.
    Without a recipe all is chosen by the size of the data and the base.

    A training that was interrupted or killed goes on when the same command is run again.

    Example: loramux train --data train.jsonl --validation held-out.jsonl --output adapters/support-intent
    """
    try:
        read_dataset(data)
        if recipe:
            load_recipe(recipe)
        resolved = _resolve(base)
        place = output.parent / f".{output.name}.training"
        place.mkdir(parents=True, exist_ok=True)
        run = TrainingRun(
            base=resolved.path,
            base_name=resolved.name,
            data=data,
            recipe=recipe,
            output=output,
            validation=validation,
            state=place / "state",
            device=device,
        )
        with closing(run_trainer(run)) as events:  # however this ends, the trainer has ended before
            last = (_print_json if as_json else _show)(events)
        if not isinstance(last, Finished):  # somebody told the trainer alone to stop: it has saved where it was
            _end(_GOES_ON, 130)
        shutil.rmtree(place, ignore_errors=True)
        words.print(f"to serve it: loramux adapter add {output.name} {output} --upload")
    except TrainerCrashed as error:
        _end(error, 1)
    except (AdapterError, BaseError, SettingsError, OSError) as error:
        _end(error, 2)
    except KeyboardInterrupt:
        _end(_GOES_ON, 130)


def _resolve(base: str | None) -> ResolvedBase:
    settings = load_settings(overrides={"base": base})
    return resolve_base(settings.base, settings.data_dir, revision=settings.base_revision, progress=words.print)


def _print_json(events: Iterable[Event]) -> Event | None:
    """Print the events; returns the last one."""
    event = None
    for event in events:
        typer.echo(event.model_dump_json())
    return event


def _show(events: Iterable[Event]) -> Event | None:
    """Show the progress; returns the last event."""
    event = None
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(TextColumn("{task.description}"), *columns, console=words) as progress:
        task = progress.add_task("loading", total=None, note="")
        for event in events:
            match event:
                case Started():
                    words.print(_about(event))
                    progress.update(task, description="training", total=event.steps)
                case Step():
                    note = f"loss {event.loss:.3f}, {event.tokens:,} tokens, {event.seconds_left:.0f} s left"
                    progress.update(task, completed=event.step, note=note)
                case Validated():
                    words.print(f"step {event.step}: validation loss {event.loss:.3f}")
                case Finished():
                    progress.update(task, description="trained", note=f"{event.size / 1e6:.1f} MB")
    return event


def _about(started: Started) -> str:
    if started.resumed_step:
        words.print(f"going on after step {started.resumed_step:,}")
    return (
        f"{started.examples:,} examples, {started.steps:,} steps; "
        f"training {started.trained_parameters:,} parameters, {started.trained_share:.2%} of the base's"
        f"{_recipe(started)}"
    )


def _recipe(started: Started) -> str:
    chosen = started.recipe.model_dump(exclude_none=True, mode="json") if started.recipe else {}
    return "".join(f"\n  {name}: {value}" for name, value in chosen.items())


def _end(reason: object, code: int) -> NoReturn:
    words.print(str(reason), style="red")
    raise typer.Exit(code)
