"""A training from its files to an adapter's two files; broken off at any moment, it goes on when it is run again."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from loramux_adapters.training.dataset import Row, read_dataset, rows
from loramux_adapters.training.events import Checkpointed, Finished, Started
from loramux_adapters.training.recipe import Recipe
from loramux_adapters.training.saved import States, fingerprint
from loramux_adapters.training.trainer.model import (
    CONFIG,
    WEIGHTS,
    device_for,
    load,
    refuse_too_long,
    save,
    with_adapter,
)
from loramux_adapters.training.trainer.reporter import Reporter

CHECKPOINTS = 3
"""Adapters that are exported on the way, evenly spaced; the last one equals the result."""


class PausedError(Exception):
    """The training was told to stop, and goes on after `step` when it is run again."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@dataclass(frozen=True)
class Job:
    """What to train, from what, to where; without `state` nothing is kept to go on from.

    A state is saved every `save_seconds` at least: so much training a kill may cost.
    """

    base: Path
    base_name: str
    data: Path
    recipe: Recipe
    output: Path
    validation: Path | None = None
    state: Path | None = None
    save_seconds: float = 30.0
    device: str = "auto"


def train(job: Job, reporter: Reporter) -> None:
    """Train and write `adapter_model.safetensors` (bfloat16) and `adapter_config.json` to the job's output.

    Files of these names that are already there are replaced together, others are left alone; nothing is written before
    the training is done, but for checkpoints, which only a job with a `state` has. Raises TrainingError or OSError when
    the base, the data or the recipe can't be used, PausedError when the reporter was told to pause.
    """
    examples, held_out = rows(read_dataset(job.data)), rows(read_dataset(job.validation)) if job.validation else []
    device = device_for(job.device)
    tokenizer, model = load(job.base, device)
    refuse_too_long([*examples, *held_out], tokenizer, job.recipe.max_length)
    torch.manual_seed(job.recipe.seed)  # the adapter's first weights are drawn here
    model = with_adapter(model, job.recipe)
    with _states(job) as states, _published(job.output) as folder:
        trainer = _trainer(model, tokenizer, job.recipe, device, states, examples, held_out, reporter)
        _go(trainer, job, states, reporter, _started(model, job.recipe, examples, held_out, device))
        save(model, job.base_name, folder)
        size = (folder / WEIGHTS).stat().st_size
    reporter.tell(Finished(size=size, seconds=reporter.seconds, tokens=reporter.tokens))


def _go(trainer: SFTTrainer, job: Job, states: States, reporter: Reporter, started: Started) -> None:
    """Train from the newest state to the end."""
    saved = states.newest()
    if saved:
        reporter.before_tokens, reporter.before_seconds = saved.tokens, saved.seconds
        started = started.model_copy(update={"resumed_step": saved.step})
    reporter.tell(started)
    step = saved.step if saved else 0
    if reporter.is_pausing:
        raise PausedError(step)

    def publish(step: int) -> None:
        if step in reporter.due:
            folder = f"checkpoints/step-{step}"
            (job.output / folder).mkdir(parents=True, exist_ok=True)
            save(trainer.model, job.base_name, job.output / folder)
            reporter.tell(Checkpointed(step=step, folder=folder))
        states.publish(states.unfinished / f"checkpoint-{step}", step, reporter.tokens, reporter.seconds)

    reporter.publish = publish if job.state else None
    reporter.due, reporter.validates = checkpoint_steps(started.steps), started.validation_examples > 0
    reporter.save_seconds = job.save_seconds
    trainer.train(resume_from_checkpoint=str(saved.folder) if saved else None)
    if trainer.state.global_step < started.steps:
        raise PausedError(trainer.state.global_step)


def checkpoint_steps(steps: int) -> frozenset[int]:
    """Return the steps after which an adapter is exported."""
    return frozenset(ceil(steps * part / CHECKPOINTS) for part in range(1, CHECKPOINTS + 1))


def _started(model: Any, recipe: Recipe, examples: list[Row], held_out: list[Row], device: str) -> Started:
    trained, total = model.get_nb_trainable_parameters()
    return Started(
        examples=len(examples),
        validation_examples=len(held_out),
        steps=ceil(len(examples) / recipe.batch_size) * recipe.epochs,
        trained_parameters=trained,
        base_parameters=total - trained,
        device=device,
    )


def _trainer(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    device: str,
    states: States,
    examples: list[Row],
    held_out: list[Row],
    reporter: Reporter,
) -> SFTTrainer:
    on_gpu = device != "cpu"
    return SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(states.unfinished),
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.batch_size,
            per_device_eval_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            max_length=recipe.max_length,
            seed=recipe.seed,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            gradient_checkpointing=False,
            dataloader_pin_memory=on_gpu,
            logging_steps=1,
            save_strategy="no",  # the reporter says when
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(examples),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
        callbacks=[reporter],
    )


@contextmanager
def _states(job: Job) -> Iterator[States]:
    """The job's states; those of a job that keeps none lie beside its output, and go with it."""
    name = fingerprint(job.base, job.data, job.validation, job.recipe)
    if job.state:
        yield States(job.state, name)
        return
    job.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{job.output.name}.state.", dir=job.output.parent) as folder:
        yield States(Path(folder), name)


@contextmanager
def _published(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write in; at the end the adapter's files move over, on any error nothing does.

    The old config goes first and the new one comes last, so `output` never shows weights with a config not theirs.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        yield Path(folder)
        ignore_interrupts()
        (output / CONFIG).unlink(missing_ok=True)
        for name in (WEIGHTS, CONFIG):
            (Path(folder) / name).replace(output / name)


def ignore_interrupts() -> None:
    """Let nothing break off what must be done as a whole."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
