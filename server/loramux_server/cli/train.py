"""`loramux train`: train an adapter on this machine, without a server."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from loramux_adapters.durations import format_duration
from loramux_adapters.errors import AdapterError
from loramux_adapters.finetuning.chat_rendering import ChatRendering, read_stop_token_ids
from loramux_adapters.finetuning.datasets.ignored_keys import IgnoredKeys
from loramux_adapters.finetuning.datasets.preferences import iter_preferences
from loramux_adapters.finetuning.datasets.reader import iter_conversations
from loramux_adapters.finetuning.errors import TrainerCrashed
from loramux_adapters.finetuning.events import Finished, Started, Step, TrainerEvent, Validated, Warned
from loramux_adapters.finetuning.recipes.recipe import load_recipe
from loramux_adapters.finetuning.trainer_process import TrainerLauncher
from loramux_adapters.finetuning.training_run import TrainingRun
from loramux_server.base_model import BaseError, ResolvedBase, resolve_base, resolve_unquantized
from loramux_server.cli.console import fail, stderr, step_progress
from loramux_server.described_base import describe_base
from loramux_server.settings import Settings, SettingsError, export_gpu_order, load_settings

RENDERING_OPTIONS = {
    "chat_template",
    "chat_template_content_format",
    "default_chat_template_kwargs",
    "generation_config",
    "override_generation_config",
    "reasoning_parser",
    "structured_outputs_config",
    "tokenizer",
    "tokenizer_mode",
    "trust_remote_code",
}
"""Engine options that change how conversations are rendered, or where answers end."""
TEMPLATE_FILES = {"tokenizer_config.json", "chat_template.json"}
CONTENT_LOOP = re.compile(r"\bin\s+\w+(\.content\b|\[\\?['\"]content)")
INTERRUPTED = "interrupted; run the same command again to continue"
ShowEvents = Callable[[AsyncIterator[TrainerEvent]], Awaitable[TrainerEvent | None]]


def train(
    data: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Training file in OpenAI's format: conversations (DPO: pairs), one per line.",
        ),
    ],
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for the adapter.")],
    recipe: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Recipe (YAML).", show_default="chosen from the data"),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Held-out file of the same format, for validation only."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    base: Annotated[str | None, typer.Option(help="Folder, Hub id or `demo`.", show_default="LORAMUX_BASE")] = None,
    initial_adapter: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Adapter to go on from, a folder of PEFT's files."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as JSON, one per line.")] = False,
) -> None:
    """Train a LoRA adapter of the base on a file of conversations.

    Only the assistant's messages are trained on. `loramux data convert` converts files in other formats. A recipe sets
    rank, alpha, target_modules, last_layers, learning_rate, epochs, batch_size, max_length, seed and
    early_stopping_patience, all optional; without a recipe they are chosen from the size of the data and the base. With
    `method: dpo` (and `beta`) in the recipe, the file has pairs of a preferred and a non-preferred answer. An adapter
    that is trained further keeps its rank, alpha and modules.

    Run the same command again to continue an interrupted or killed training.

    Example: loramux train --data train.jsonl --validation held-out.jsonl --output my-adapters/support-intent
    """
    try:
        chosen = load_recipe(recipe) if recipe else None
        for file in filter(None, (data, validation)):
            _check_file(file, is_dpo=chosen is not None and chosen.is_dpo)
        settings = load_settings(overrides={"base": base})
        resolved = _resolve(settings)
        work_folder = output.parent / f".{output.name}.training"
        work_folder.mkdir(parents=True, exist_ok=True)
        run = TrainingRun(
            base=resolved.path,
            description=describe_base(resolved, settings, _log),
            data=data,
            recipe=chosen,
            output=output,
            validation=validation,
            initial_adapter=initial_adapter,
            rendering=_rendering(settings, resolved),
            state=work_folder / "state",
            device=device,
            quantize=settings.training.quantize,
            unquantized_base=resolve_unquantized(settings.training.base, settings.data_dir, _log),
        )
        export_gpu_order()
        last = asyncio.run(_run_trainer(run, work_folder, _print_json if as_json else _show_progress))
        if not isinstance(last, Finished):  # the trainer alone was asked to stop, and has saved its state
            fail(INTERRUPTED, 130)
        shutil.rmtree(work_folder, ignore_errors=True)
        _log(f"to serve it: loramux adapter add {output.name} {output} --upload")
    except TrainerCrashed as error:
        fail(error, 1)
    except (AdapterError, BaseError, SettingsError, OSError) as error:
        fail(error, 2)
    except KeyboardInterrupt:
        fail(INTERRUPTED, 130)


def _check_file(path: Path, *, is_dpo: bool) -> None:
    """Validate a file before the base is loaded, and log what is ignored in it.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    ignored = IgnoredKeys()
    for line in iter_preferences(path) if is_dpo else iter_conversations(path):
        ignored.add(line.ignored_keys)
    for warning in ignored.warnings():
        _log(f"{path.name}: {warning}")


def _resolve(settings: Settings) -> ResolvedBase:
    return resolve_base(settings.base, settings.data_dir, revision=settings.base_revision, progress=_log)


def _rendering(settings: Settings, base: ResolvedBase) -> ChatRendering:
    """Return how the base's conversations are rendered when it is served with these settings."""
    if not RENDERING_OPTIONS & settings.engine.keys() and not _may_read_content_parts(base.path):
        return ChatRendering(stop_token_ids=read_stop_token_ids(base.path))
    # Importing vLLM takes seconds, which a base with an ordinary template that is served as it is does not need.
    from loramux_server.configured_adapters import FRONTEND_DEFAULTS
    from loramux_server.engine.offline_rendering import offline_rendering

    _log("reading the chat template and the parsers of the settings")
    return asyncio.run(offline_rendering(base.path, base.name, FRONTEND_DEFAULTS | settings.engine))


def _may_read_content_parts(base: Path) -> bool:
    """Whether a chat template of the base loops over the parts of a content: vLLM then decides how it is rendered."""
    files = [path for path in base.glob("*") if path.name in TEMPLATE_FILES or path.suffix == ".jinja"]
    return any(CONTENT_LOOP.search(path.read_text(encoding="utf-8", errors="replace")) for path in files)


async def _run_trainer(run: TrainingRun, folder: Path, show: ShowEvents) -> TrainerEvent | None:
    """Run the trainer and show its events; returns the last one. The trainer has exited when this returns or raises."""
    async with TrainerLauncher(priority="equal").launch(run, folder) as trainer:
        return await show(trainer.events())


async def _print_json(events: AsyncIterator[TrainerEvent]) -> TrainerEvent | None:
    """Print events as JSON; returns the last one."""
    event = None
    async for event in events:
        typer.echo(event.model_dump_json())
    return event


async def _show_progress(events: AsyncIterator[TrainerEvent]) -> TrainerEvent | None:
    """Show progress; returns the last event."""
    event = None
    with step_progress() as progress:
        task = progress.add_task("loading", total=None, note="")
        async for event in events:
            match event:
                case Started():
                    _log(_summary(event))
                    progress.update(task, description="training", total=event.steps)
                case Warned():
                    _log(event.message)
                case Step():
                    progress.update(task, completed=event.step, note=_note(event))
                case Validated():
                    _log(f"step {event.step}: validation loss {event.loss:.3f}")
                case Finished():
                    progress.update(task, description="trained", note=f"{event.size / 1e6:.1f} MB")
    return event


def _note(step: Step) -> str:
    left = "" if step.seconds_left is None else f", {format_duration(step.seconds_left)} left"
    return f"loss {step.loss:.3f}, {step.tokens:,} tokens{left}"


def _summary(started: Started) -> str:
    if started.resumed_step:
        _log(f"continuing after step {started.resumed_step:,}")
    return (
        f"{started.examples:,} examples, {started.steps:,} steps; "
        f"training {started.trained_parameters:,} parameters, {started.trained_share:.2%} of the base's"
        f"{_device_lines(started)}"
        f"{_recipe_lines(started)}"
    )


def _device_lines(started: Started) -> str:
    precision = f" in {started.precision}" if started.precision else ""
    return f"\n  on {started.device}{precision}" + (f"\n  memory saved by {started.memory}" if started.memory else "")


def _recipe_lines(started: Started) -> str:
    chosen = started.recipe.model_dump(exclude_none=True, mode="json") if started.recipe else {}
    return "".join(f"\n  {name}: {value}" for name, value in chosen.items())


def _log(line: str) -> None:
    stderr.print(line, markup=False)
