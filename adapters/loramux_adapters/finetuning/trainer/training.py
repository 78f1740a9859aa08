"""A training from its files to an adapter's two files; broken off at any moment, it goes on when it is run again."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig

from loramux_adapters.finetuning.events import Checkpointed, Finished, Started
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.answer_loss import AnswersTrainer
from loramux_adapters.finetuning.trainer.model import CONFIG, WEIGHTS, dtype_for, load, save, with_adapter
from loramux_adapters.finetuning.trainer.prepared_data import Job, Lessons, prepare
from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, Reporter
from loramux_adapters.finetuning.training_state import States, fingerprint, held, sync

CHECKPOINTS = 3
"""Adapters that are exported on the way, evenly spaced; the last one equals the result."""


def train(job: Job, reporter: Reporter) -> None:
    """Train and write `adapter_model.safetensors` (bfloat16) and `adapter_config.json` to the job's output.

    Files of these names that are already there are replaced together, others are left alone; nothing is written before
    the training is done, but for checkpoints. Raises TrainingError or OSError when the base, the data or the recipe
    can't be used, PausedError when the reporter was told to pause.
    """
    lessons = prepare(job)
    model = load(job.base, lessons.device)
    torch.manual_seed(lessons.recipe.seed)  # the adapter's first weights are drawn here
    model = with_adapter(model, lessons.recipe)
    job.output.mkdir(parents=True, exist_ok=True)
    with _states(job, lessons.recipe) as states:
        trainer = _trainer(model, lessons, states, reporter)
        _go(trainer, job, states, reporter, _started(model, lessons))
    size = _publish(model, job.base_name, job.output)
    reporter.tell(Finished(size=size, seconds=reporter.seconds, tokens=reporter.tokens))


def _go(trainer: AnswersTrainer, job: Job, states: States, reporter: Reporter, started: Started) -> None:
    """Train from the newest state to the end."""
    saved = states.newest()
    if saved:
        reporter.before_tokens, reporter.before_seconds = saved.tokens, saved.seconds
        reporter.saved_step = saved.step
        started = started.model_copy(update={"resumed_step": saved.step})
    reporter.tell(started)
    if reporter.is_pausing:
        raise PausedError(reporter.saved_step)

    def publish(step: int) -> bool:
        if step in reporter.due:
            folder = f"checkpoints/step-{step}"
            _publish(trainer.model, job.base_name, job.output / folder)
            reporter.tell(Checkpointed(step=step, folder=folder))
        if job.state:
            states.publish(states.unfinished / f"checkpoint-{step}", step, reporter.tokens, reporter.seconds)
        return job.state is not None

    reporter.publish = publish
    reporter.due, reporter.validates = checkpoint_steps(started.steps), started.validation_examples > 0
    reporter.save_seconds = job.save_seconds if job.state else None
    trainer.train(resume_from_checkpoint=str(saved.folder) if saved else None)
    if trainer.state.global_step < started.steps:
        raise PausedError(reporter.saved_step)


def checkpoint_steps(steps: int) -> frozenset[int]:
    """Return the steps after which an adapter is exported."""
    return frozenset(ceil(steps * part / CHECKPOINTS) for part in range(1, CHECKPOINTS + 1))


def _started(model: Any, lessons: Lessons) -> Started:
    trained, total = model.get_nb_trainable_parameters()
    return Started(
        examples=len(lessons.examples),
        validation_examples=len(lessons.held_out),
        steps=ceil(len(lessons.examples) / lessons.recipe.batch_size) * lessons.recipe.epochs,
        trained_parameters=trained,
        base_parameters=total - trained,
        device=lessons.device,
        recipe=lessons.recipe,
    )


def _trainer(model: Any, lessons: Lessons, states: States, reporter: Reporter) -> AnswersTrainer:
    recipe, on_gpu = lessons.recipe, lessons.device != "cpu"
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
        bf16=dtype_for(lessons.device) is torch.bfloat16,
        gradient_checkpointing=False,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        save_strategy="no",  # the reporter says when
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    keep_to(arguments, torch.device(lessons.device))
    return AnswersTrainer(
        reporter=reporter,
        lengths=[length.whole for length in lessons.lengths],
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(lessons.examples),
        eval_dataset=Dataset.from_list(lessons.held_out) if lessons.held_out else None,
        processing_class=lessons.tokenizer,
    )


def keep_to(arguments: SFTConfig, device: torch.device) -> None:
    """Let transformers use this device alone: by itself it takes the first GPU, and the others beside it."""
    arguments._n_gpu = int(device.type != "cpu")
    arguments.__dict__["_setup_devices"] = device  # a cached property
    arguments.distributed_state.device = device


@contextmanager
def _states(job: Job, recipe: Recipe) -> Iterator[States]:
    """The job's states, held against other trainers; a job that keeps none has a folder that goes with it."""
    name = fingerprint(job.base, job.data, job.validation, recipe)
    if job.state:
        with held(job.state):
            yield States(job.state, name)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield States(Path(folder), name)


def _publish(model: Any, base_name: str, output: Path) -> int:
    """Write the adapter's two files to `output`, as a whole or not at all; returns the bytes of the weights.

    The old config goes first and the new one comes last, so `output` never shows weights with a config not theirs.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as written:
        folder = Path(written)
        save(model, base_name, folder)
        with uninterrupted():
            (output / CONFIG).unlink(missing_ok=True)
            for name in (WEIGHTS, CONFIG):
                sync(folder / name)
                (folder / name).replace(output / name)
            sync(output)
    return (output / WEIGHTS).stat().st_size


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no signal break off what must be done as a whole."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """Let nothing break off the cleaning up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
