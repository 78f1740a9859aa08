"""A training run from its files to the adapter's two files; interrupted at any moment, it resumes when run again."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig

from loramux_adapters.finetuning.events import Checkpointed, Finished, Started
from loramux_adapters.finetuning.recipes.estimate import trained_layer_share
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.adapter_files import write_adapter
from loramux_adapters.finetuning.trainer.answer_loss import AnswerLossTrainer
from loramux_adapters.finetuning.trainer.model import add_adapter, load_model, select_dtype
from loramux_adapters.finetuning.trainer.pace import PlannedSteps
from loramux_adapters.finetuning.trainer.prepared_data import PreparedData, prepare_data
from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, ProgressReporter
from loramux_adapters.finetuning.trainer.tokenized_examples import to_dataset
from loramux_adapters.finetuning.training_run import TrainingRun
from loramux_adapters.finetuning.training_state import (
    SavedState,
    TrainingStateStore,
    lock_states,
    training_fingerprint,
)

CHECKPOINT_COUNT = 3
"""Number of adapters exported during training, evenly spaced; the last one equals the result."""


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
    model = load_model(run.base, data.device)
    torch.manual_seed(data.recipe.seed)  # the adapter's initial weights are random
    model = add_adapter(model, run.description, data.recipe)
    run.output.mkdir(parents=True, exist_ok=True)
    with _open_states(run, data.recipe) as states:
        trainer = _create_trainer(model, data, states, reporter)
        started = _started_event(model, data)
        reporter.planned = _planned_steps(started, data, model.config.num_hidden_layers)
        _train_to_end(trainer, run, states, reporter, started)
    size = write_adapter(model, run.description.name, run.output)
    reporter.report(Finished(size=size, seconds=reporter.seconds, tokens=reporter.tokens))


def _train_to_end(
    trainer: AnswerLossTrainer,
    run: TrainingRun,
    states: TrainingStateStore,
    reporter: ProgressReporter,
    started: Started,
) -> None:
    """Train from the newest saved state, or from the beginning, to the last step."""
    saved = states.load_newest()
    if saved:
        started = _resume(saved, reporter, started)
    reporter.report(started)
    if reporter.pause_requested:
        raise PausedError(reporter.saved_step)

    def publish(step: int) -> bool:
        if step in reporter.planned.checkpoint_steps:
            folder = f"checkpoints/step-{step}"
            write_adapter(trainer.model, run.description.name, run.output / folder)
            reporter.report(Checkpointed(step=step, folder=folder))
        if run.state:
            states.publish(states.unfinished / f"checkpoint-{step}", step, reporter.tokens, reporter.seconds)
        return run.state is not None

    reporter.publish = publish
    reporter.has_validation = started.validation_examples > 0
    reporter.save_seconds = run.save_seconds if run.state else None
    trainer.train(resume_from_checkpoint=str(saved.folder) if saved else None)
    if trainer.state.global_step < started.steps:
        raise PausedError(reporter.saved_step)


def _resume(saved: SavedState, reporter: ProgressReporter, started: Started) -> Started:
    reporter.previous_tokens, reporter.previous_seconds = saved.tokens, saved.seconds
    reporter.saved_step = saved.step
    return started.model_copy(update={"resumed_step": saved.step})


def checkpoint_steps(steps: int) -> frozenset[int]:
    """Return the steps after which an adapter is exported."""
    return frozenset(ceil(steps * part / CHECKPOINT_COUNT) for part in range(1, CHECKPOINT_COUNT + 1))


def _started_event(model: Any, data: PreparedData) -> Started:
    trained, total = model.get_nb_trainable_parameters()
    return Started(
        examples=len(data.examples),
        validation_examples=len(data.validation_examples),
        steps=ceil(len(data.examples) / data.recipe.batch_size) * data.recipe.epochs,
        trained_parameters=trained,
        base_parameters=total - trained,
        device=data.device,
        recipe=data.recipe,
    )


def _planned_steps(started: Started, data: PreparedData, layers: int) -> PlannedSteps:
    forward_share = 1 / (1 + trained_layer_share(data.recipe, layers))
    return PlannedSteps(
        steps=started.steps,
        tokens=data.recipe.epochs * sum(len(example.tokens) for example in data.examples),
        checkpoint_steps=checkpoint_steps(started.steps),
        validation_tokens=sum(len(example.tokens) for example in data.validation_examples),
        forward_share=forward_share,
    )


def _create_trainer(
    model: Any, data: PreparedData, states: TrainingStateStore, reporter: ProgressReporter
) -> AnswerLossTrainer:
    recipe, on_gpu = data.recipe, data.device != "cpu"
    arguments = SFTConfig(
        output_dir=str(states.unfinished),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        max_length=recipe.max_length,
        seed=recipe.seed,
        use_cpu=not on_gpu,
        bf16=select_dtype(data.device) is torch.bfloat16,
        gradient_checkpointing=False,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        save_strategy="no",  # the reporter decides
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    use_only_device(arguments, torch.device(data.device))
    return AnswerLossTrainer(
        reporter=reporter,
        lengths=[len(example.tokens) for example in data.examples],
        model=model,
        args=arguments,
        train_dataset=to_dataset(data.examples),
        eval_dataset=to_dataset(data.validation_examples) if data.validation_examples else None,
        processing_class=data.tokenizer,
    )


def use_only_device(arguments: SFTConfig, device: torch.device) -> None:
    """Make transformers use this device alone: by default it takes the first GPU, and all others too."""
    arguments._n_gpu = int(device.type != "cpu")
    arguments.__dict__["_setup_devices"] = device  # a cached property
    arguments.distributed_state.device = device


@contextmanager
def _open_states(run: TrainingRun, recipe: Recipe) -> Iterator[TrainingStateStore]:
    """Open the run's states, locked against other trainers; a run that keeps none gets a temporary folder."""
    fingerprint = training_fingerprint(run.base, run.data, run.validation, recipe, run.rendering)
    if run.state:
        with lock_states(run.state):
            yield TrainingStateStore(run.state, fingerprint)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield TrainingStateStore(Path(folder), fingerprint)
