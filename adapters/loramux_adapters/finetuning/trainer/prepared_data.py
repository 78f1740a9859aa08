"""Reads and checks the data of a training run, chooses its recipe, and checks that it fits in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer
from loramux_adapters.finetuning.datasets.unseen_pairs import unseen_pairs
from loramux_adapters.finetuning.errors import InvalidRecipe
from loramux_adapters.finetuning.recipes.adapter_shape import read_adapter_shape
from loramux_adapters.finetuning.recipes.device_choice import DeviceChoice, choose_device
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions, choose_recipe
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.base_weights import BaseWeights
from loramux_adapters.finetuning.trainer.devices import candidate_devices
from loramux_adapters.finetuning.trainer.model import check_recipe, load_tokenizer, load_weights
from loramux_adapters.finetuning.trainer.preference_examples import TokenizedPair, tokenize_pairs
from loramux_adapters.finetuning.trainer.tokenized_examples import (
    TokenizedExample,
    check_lengths,
    tokenize_file,
)
from loramux_adapters.finetuning.training_run import TrainingRun

Tokenized = Sequence[TokenizedExample] | Sequence[TokenizedPair]
"""The examples of supervised training, or the pairs of DPO."""


@dataclass(frozen=True)
class PreparedData:
    """The examples of a training run and how to train on them: all that is known before the base is loaded."""

    examples: Tokenized
    validation_examples: Tokenized
    """Sorted by length, so that batches need less padding."""
    recipe: Recipe
    tokenizer: Any
    weights: BaseWeights
    choice: DeviceChoice
    demand: MemoryDemand

    @property
    def device(self) -> str:
        """The device to train on."""
        return self.choice.device.name


def prepare_data(run: TrainingRun) -> PreparedData:
    """Read the data and choose a recipe if the run has none.

    Raises:
        TrainingError: the run can't be trained as it is.
        OSError: a file can't be read.
    """
    devices, tokenizer, base = candidate_devices(run.device), load_tokenizer(run.base, run.rendering), run.description
    renderer = ExampleTokenizer(ChatRenderer(tokenizer, run.rendering))
    examples, validation = _tokenize_files(run, renderer)
    # By the devices that there are, not by the chosen one: a training that resumes must have the same recipe.
    recipe = run.recipe or _choose_recipe(run, [*examples, *validation], len(examples), on_gpu=devices[0].is_gpu)
    check_recipe(base, recipe)
    if recipe.early_stopping_patience and not validation:
        raise InvalidRecipe("early_stopping_patience needs a validation file, of which not all is in the training file")
    check_lengths(examples, recipe.max_length)
    check_lengths(validation, recipe.max_length)
    weights = load_weights(run.base, run.unquantized_base)
    demand = _memory_demand(base, recipe, [*examples, *validation], weights)
    choice = choose_device(demand, devices, run.quantize)
    by_length: Tokenized = sorted(validation, key=lambda example: example.longest)  # type: ignore[assignment]
    return PreparedData(examples, by_length, recipe, tokenizer, weights, choice, demand)


def _tokenize_files(run: TrainingRun, tokenizer: ExampleTokenizer) -> tuple[Tokenized, Tokenized]:
    """Tokenize the training file and the validation file; of preferences, those pairs that can be judged by."""
    if run.recipe and run.recipe.is_dpo:
        examples = tokenize_pairs(run.data, tokenizer)
        if not run.validation:
            return examples, []
        return examples, tokenize_pairs(run.validation, tokenizer, unseen_pairs(run.data, run.validation).pairs)
    return tokenize_file(run.data, tokenizer), tokenize_file(run.validation, tokenizer) if run.validation else []


def _choose_recipe(run: TrainingRun, examples: Tokenized, count: int, *, on_gpu: bool) -> Recipe:
    longest = max(8, *(example.longest for example in examples))
    shape = read_adapter_shape(run.initial_adapter, run.description) if run.initial_adapter else None
    choose = partial(choose_recipe, Hyperparameters(), LoraOptions(), count, run.description)
    return choose(max_length=longest, seed=0, on_gpu=on_gpu, shape=shape)


def _memory_demand(base: BaseDescription, recipe: Recipe, examples: Tokenized, weights: BaseWeights) -> MemoryDemand:
    return MemoryDemand(
        base=base,
        recipe=recipe,
        max_example_tokens=max(example.longest for example in examples),
        max_answer_tokens=max(example.answer_length for example in examples),
        can_checkpoint=weights.can_checkpoint,
        is_quantized=bool(weights.quantization),
        packed_weights_bytes=weights.packed_bytes,
    )
