"""A training run from its files to the adapter's two files; interrupted at any moment, it resumes when run again."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import torch

from loramux_adapters.finetuning.events import Checkpointed, Finished, Started, Warned
from loramux_adapters.finetuning.recipes.estimate import EARLY_STOPPING_PASSES, VALIDATION_PASSES, trained_layer_share
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.adapter_files import copy_adapter, write_adapter
from loramux_adapters.finetuning.trainer.base_weights import check_shapes
from loramux_adapters.finetuning.trainer.best_adapter import BestAdapter, read_state
from loramux_adapters.finetuning.trainer.devices import select_dtype
from loramux_adapters.finetuning.trainer.micro_batch_trainer import MicroBatchTrainer
from loramux_adapters.finetuning.trainer.model import add_adapter, load_adapter, load_model
from loramux_adapters.finetuning.trainer.pace import PlannedSteps
from loramux_adapters.finetuning.trainer.prepared_data import PreparedData, prepare_data
from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, ProgressReporter
from loramux_adapters.finetuning.trainer.trainer_setup import create_trainer
from loramux_adapters.finetuning.training_run import TrainingRun
from loramux_adapters.finetuning.training_state import (
    SavedState,
    TrainingStateStore,
    lock_states,
    training_fingerprint,
)

CHECKPOINT_COUNT = VALIDATION_PASSES
"""Number of adapters exported during training, evenly spaced; the last one equals the result without early stopping."""
_BEST_FOLDER = "best"


def train(run: TrainingRun, reporter: ProgressReporter) -> None:
    """Train and write `adapter_model.safetensors` (bfloat16) and `adapter_config.json` to the output folder.

    Existing files of these names are replaced together, others are not touched. Nothing but checkpoints is written
    before the training is done.

    Raises:
        TrainingError: the base, the data or the recipe can't be used.
        OSError: a file can't be read or written.
        PausedError: the reporter was asked to pause.
    """
    data = prepare_data(run)
    if data.choice.warning:
        reporter.report(Warned(message=data.choice.warning))
    model = load_model(data.weights, data.device, load_in_4bit=data.choice.strategy.load_in_4bit)
    if run.unquantized_base:
        check_shapes(model, run.description)
    torch.manual_seed(data.recipe.seed)  # the adapter's initial weights are random
    if run.initial_adapter:
        model = load_adapter(model, run.initial_adapter, data.device)
    else:
        model = add_adapter(model, run.description, data.recipe)
    run.output.mkdir(parents=True, exist_ok=True)
    started = _started_event(model, data, run.served_dtype)
    with _open_states(run, data.recipe) as states:
        best = _best_adapter(model, run, data.recipe.early_stopping_patience, states)
        if best:
            reporter.stop_after_validation = best.add
        trainer = create_trainer(model, data, states.unfinished, reporter, is_new_adapter=not run.initial_adapter)
        reporter.planned = _planned_steps(started, data)
        _train_to_end(trainer, run, states, reporter, started, best)
        result = _write_result(trainer, run, reporter, best)
    reporter.report(result)


def _best_adapter(model: Any, run: TrainingRun, patience: int | None, states: TrainingStateStore) -> BestAdapter | None:
    """Return where the best adapter is kept, next to the states; None without early stopping."""
    if patience is None:
        return None

    def write(folder: Path) -> None:
        write_adapter(model, run.description.name, folder)

    folder = run.state.parent if run.state else states.folder
    return BestAdapter(folder / _BEST_FOLDER, patience, write)


def _write_result(
    trainer: MicroBatchTrainer, run: TrainingRun, reporter: ProgressReporter, best: BestAdapter | None
) -> Finished:
    """Write the last adapter, or with early stopping the best one, to the output folder."""
    if best is None:
        size = write_adapter(trainer.model, run.description.name, run.output)
        return Finished(size=size, seconds=reporter.seconds, tokens=reporter.tokens)
    step = best.step(trainer.state)
    size = copy_adapter(best.path(step), run.output)
    totals = {"size": size, "seconds": reporter.seconds, "tokens": reporter.tokens}
    return Finished(**totals, best_step=step, best_loss=best.loss(trainer.state))


def _train_to_end(
    trainer: MicroBatchTrainer,
    run: TrainingRun,
    states: TrainingStateStore,
    reporter: ProgressReporter,
    started: Started,
    best: BestAdapter | None,
) -> None:
    """Train from the newest saved state, or from the beginning, to the last step, or until the training is over."""
    saved = states.load_newest()
    if saved:
        started = _resume(saved, reporter, started)
    reporter.report(started)
    if reporter.pause_requested:
        raise PausedError(reporter.saved_step)
    if saved and best and best.is_over(state := read_state(saved.folder)):  # killed before it wrote the result
        trainer.state, reporter.tokens = state, saved.tokens
        return
    reporter.publish = _publisher(trainer, run, states, reporter, best)
    reporter.has_validation = started.validation_examples > 0
    reporter.save_seconds = run.save_seconds if run.state else None
    trainer.train(resume_from_checkpoint=str(saved.folder) if saved else None)
    if trainer.state.global_step < started.steps and not reporter.stopped_early:
        raise PausedError(reporter.saved_step)


def _publisher(
    trainer: MicroBatchTrainer,
    run: TrainingRun,
    states: TrainingStateStore,
    reporter: ProgressReporter,
    best: BestAdapter | None,
) -> Callable[[int], bool]:
    def publish(step: int) -> bool:
        if step in reporter.planned.checkpoint_steps:
            folder = f"checkpoints/step-{step}"
            write_adapter(trainer.model, run.description.name, run.output / folder)
            reporter.report(Checkpointed(step=step, folder=folder))
        if run.state:
            states.publish(states.unfinished / f"checkpoint-{step}", step, reporter.tokens, reporter.seconds)
        if best:
            best.drop_others(trainer.state)
        return run.state is not None

    return publish


def _resume(saved: SavedState, reporter: ProgressReporter, started: Started) -> Started:
    reporter.previous_tokens, reporter.previous_seconds = saved.tokens, saved.seconds
    reporter.saved_step = saved.step
    return started.model_copy(update={"resumed_step": saved.step})


def _evenly_spaced(steps: int, count: int) -> frozenset[int]:
    """Return at most `count` steps with equal distances, of which the last one is the last step."""
    return frozenset(ceil(steps * part / count) for part in range(1, count + 1))


def _started_event(model: Any, data: PreparedData, served_dtype: str | None) -> Started:
    trained, total = model.get_nb_trainable_parameters()
    choice = data.choice
    return Started(
        examples=len(data.examples),
        validation_examples=len(data.validation_examples),
        steps=ceil(len(data.examples) / data.recipe.batch_size) * data.recipe.epochs,
        trained_parameters=trained,
        base_parameters=total - trained,
        device=data.device,
        precision=_describe_precision(data, served_dtype),
        memory=choice.reason,
        gradient_checkpointing=choice.strategy.gradient_checkpointing,
        recipe=data.recipe,
    )


def _describe_precision(data: PreparedData, served_dtype: str | None) -> str:
    dtype = str(select_dtype(data.device)).removeprefix("torch.")
    form = f"4 bits (NF4) and {dtype}" if data.choice.strategy.load_in_4bit else dtype
    served = f"served in {served_dtype}" if served_dtype and served_dtype != form else ""
    notes = ", ".join(filter(None, [data.weights.description, served]))
    return f"{form} ({notes})" if notes else form


def _planned_steps(started: Started, data: PreparedData) -> PlannedSteps:
    share = trained_layer_share(data.recipe, data.demand.base.spec.num_hidden_layers)
    forward = 2 if data.recipe.is_dpo else 1  # of the adapter, and of the reference
    forward_share = forward / (forward + share * (2 if started.gradient_checkpointing else 1))
    passes = EARLY_STOPPING_PASSES if data.recipe.early_stopping_patience else CHECKPOINT_COUNT
    return PlannedSteps(
        steps=started.steps,
        tokens=data.recipe.epochs * sum(example.total_tokens for example in data.examples),
        checkpoint_steps=_evenly_spaced(started.steps, CHECKPOINT_COUNT),
        more_validation_steps=_evenly_spaced(started.steps, passes),
        validation_tokens=sum(example.total_tokens for example in data.validation_examples),
        forward_share=forward_share,
    )


@contextmanager
def _open_states(run: TrainingRun, recipe: Recipe) -> Iterator[TrainingStateStore]:
    """Open the run's states, locked against other trainers; a run that keeps none gets a temporary folder."""
    weights = run.unquantized_base or run.base
    inputs = run.data, run.validation, recipe, run.rendering, run.initial_adapter
    fingerprint = training_fingerprint(weights, *inputs)
    if run.state:
        with lock_states(run.state):
            yield TrainingStateStore(run.state, fingerprint)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield TrainingStateStore(Path(folder), fingerprint)
