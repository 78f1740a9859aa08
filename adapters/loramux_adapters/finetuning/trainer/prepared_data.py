"""Reads and checks the data of a training run, chooses its recipe, and checks that it fits in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions, choose_recipe
from loramux_adapters.finetuning.recipes.memory import TrainingSize, check_memory, required_bytes
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.model import (
    check_recipe,
    free_memory,
    load_tokenizer,
    select_device,
    select_dtype,
)
from loramux_adapters.finetuning.trainer.tokenized_examples import (
    TokenizedExample,
    check_lengths,
    tokenize_file,
)
from loramux_adapters.finetuning.training_run import TrainingRun


@dataclass(frozen=True)
class PreparedData:
    """The examples of a training run and how to train on them: all that is known before the base is loaded."""

    examples: list[TokenizedExample]
    validation_examples: list[TokenizedExample]
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
    device, tokenizer, base = select_device(run.device), load_tokenizer(run.base, run.rendering), run.description
    renderer = ExampleTokenizer(ChatRenderer(tokenizer, run.rendering))
    examples = tokenize_file(run.data, renderer)
    validation = tokenize_file(run.validation, renderer) if run.validation else []
    recipe = run.recipe or _choose_recipe(base, examples + validation, len(examples), on_gpu=device != "cpu")
    check_recipe(base, recipe)
    check_lengths(examples, recipe.max_length)
    check_lengths(validation, recipe.max_length)
    size = _training_size(base, examples + validation, device)
    check_memory(required_bytes(base, recipe, size), free_memory(device), recipe, device)
    validation.sort(key=lambda example: len(example.tokens))
    return PreparedData(examples, validation, recipe, tokenizer, device)


def _choose_recipe(base: BaseDescription, examples: Sequence[TokenizedExample], count: int, *, on_gpu: bool) -> Recipe:
    longest = max(8, *(len(example.tokens) for example in examples))
    return choose_recipe(Hyperparameters(), LoraOptions(), count, base, max_length=longest, seed=0, on_gpu=on_gpu)


def _training_size(base: BaseDescription, examples: Sequence[TokenizedExample], device: str) -> TrainingSize:
    return TrainingSize(
        parameters=base.parameters,
        bytes_per_parameter=select_dtype(device).itemsize,
        max_example_tokens=max(len(example.tokens) for example in examples),
        max_answer_tokens=max(example.answer_length for example in examples),
    )
