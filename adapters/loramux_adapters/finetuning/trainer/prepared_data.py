"""Reads and checks the data of a training run, chooses its recipe, and checks that it fits in memory."""

from dataclasses import dataclass
from typing import Any

from loramux_adapters.finetuning.datasets.examples import Example, examples_of
from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions, choose_recipe
from loramux_adapters.finetuning.recipes.memory import TrainingSize, check_memory, required_bytes
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.model import (
    ExampleLength,
    check_lengths,
    count_parameters,
    count_tokens,
    free_memory,
    load_base_spec,
    load_tokenizer,
    select_device,
    select_dtype,
)
from loramux_adapters.finetuning.training_run import TrainingRun
from loramux_adapters.models import BaseSpec


@dataclass(frozen=True)
class PreparedData:
    """The examples of a training run and how to train on them: all that is known before the base is loaded."""

    examples: list[Example]
    lengths: list[ExampleLength]
    validation_examples: list[Example]
    """Sorted by length, so that batches need less padding."""
    recipe: Recipe
    tokenizer: Any
    device: str


def prepare_data(run: TrainingRun) -> PreparedData:
    """Read the data and choose a recipe if the run has none.

    Raises:
        TrainingError: the run can't be trained as it is.
        OSError: a file can't be read.
    """
    examples = examples_of(read_dataset(run.data))
    validation = examples_of(read_dataset(run.validation)) if run.validation else []
    device, tokenizer, base = select_device(run.device), load_tokenizer(run.base), load_base_spec(run.base)
    lengths, validation_lengths = count_tokens(examples, tokenizer), count_tokens(validation, tokenizer)
    recipe = run.recipe or _choose_recipe(base, lengths + validation_lengths, len(examples), on_gpu=device != "cpu")
    check_lengths(lengths, recipe.max_length)
    check_lengths(validation_lengths, recipe.max_length)
    size = _training_size(run, lengths + validation_lengths, device)
    check_memory(required_bytes(base, recipe, size), free_memory(device), recipe, device)
    by_length = sorted(range(len(validation)), key=lambda number: validation_lengths[number].total)
    return PreparedData(examples, lengths, [validation[number] for number in by_length], recipe, tokenizer, device)


def _choose_recipe(base: BaseSpec, lengths: list[ExampleLength], examples: int, *, on_gpu: bool) -> Recipe:
    longest = max(8, *(length.total for length in lengths))
    return choose_recipe(Hyperparameters(), LoraOptions(), examples, base, max_length=longest, seed=0, on_gpu=on_gpu)


def _training_size(run: TrainingRun, lengths: list[ExampleLength], device: str) -> TrainingSize:
    return TrainingSize(
        parameters=count_parameters(run.base),
        bytes_per_parameter=select_dtype(device).itemsize,
        max_example_tokens=max(length.total for length in lengths),
        max_answer_tokens=max(length.total - length.prompt for length in lengths),
    )
