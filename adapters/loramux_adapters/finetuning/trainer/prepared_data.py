"""What is known of a training before its base is loaded: the job, its data, its recipe, and whether it fits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramux_adapters.finetuning.datasets.conversations import Row, read_dataset, rows
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions, recipe_for
from loramux_adapters.finetuning.recipes.memory import Load, needed, refuse_if_short
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.model import (
    Lengths,
    device_for,
    dtype_for,
    free_on,
    lengths_of,
    load_tokenizer,
    parameters_of,
    refuse_too_long,
    spec_of,
)
from loramux_adapters.models import BaseSpec


@dataclass(frozen=True)
class Job:
    """What to train, from what, to where; without `state` nothing is kept to go on from.

    Without a recipe one is chosen by the size of the data and the base. A state is saved every `save_seconds` at least:
    so much training a kill may cost.
    """

    base: Path
    base_name: str
    data: Path
    recipe: Recipe | None
    output: Path
    validation: Path | None = None
    state: Path | None = None
    save_seconds: float = 30.0
    device: str = "auto"


@dataclass(frozen=True)
class Lessons:
    """A job's data, and how it is trained on: all that is known before the base is loaded."""

    examples: list[Row]
    lengths: list[Lengths]
    held_out: list[Row]
    recipe: Recipe
    tokenizer: Any
    device: str


def prepare(job: Job) -> Lessons:
    """Read the data and choose what was left open; raises TrainingError for what could not be trained, OSError."""
    examples, held_out = rows(read_dataset(job.data)), rows(read_dataset(job.validation)) if job.validation else []
    device, tokenizer, base = device_for(job.device), load_tokenizer(job.base), spec_of(job.base)
    lengths, others = lengths_of(examples, tokenizer), lengths_of(held_out, tokenizer)
    recipe = job.recipe or _chosen(base, lengths + others, len(examples), on_gpu=device != "cpu")
    refuse_too_long(lengths, recipe.max_length)
    refuse_too_long(others, recipe.max_length)
    longest = Load(
        parameters=parameters_of(job.base),
        bytes_each=dtype_for(device).itemsize,
        longest=max(length.whole for length in lengths + others),
        answer=max(length.whole - length.prompt for length in lengths + others),
    )
    refuse_if_short(needed(base, recipe, longest), free_on(device), recipe, device)
    alike = sorted(range(len(held_out)), key=lambda number: others[number].whole)  # less padding
    return Lessons(examples, lengths, [held_out[number] for number in alike], recipe, tokenizer, device)


def _chosen(base: BaseSpec, lengths: list[Lengths], examples: int, *, on_gpu: bool) -> Recipe:
    longest = max(8, *(length.whole for length in lengths))
    return recipe_for(Hyperparameters(), LoraOptions(), examples, base, max_length=longest, seed=0, on_gpu=on_gpu)
