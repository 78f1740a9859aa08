"""Reads and checks the data of a training run, chooses its recipe, and checks that it fits in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.answer_tokens import ExampleTokenizer
from loramux_adapters.finetuning.chat_rendering import ChatRenderer
from loramux_adapters.finetuning.recipes.device_choice import DeviceChoice, choose_device
from loramux_adapters.finetuning.recipes.hyperparameters import Hyperparameters, LoraOptions, choose_recipe
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.finetuning.trainer.base_weights import BaseWeights
from loramux_adapters.finetuning.trainer.devices import candidate_devices
from loramux_adapters.finetuning.trainer.model import check_recipe, load_tokenizer, load_weights
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
    examples = tokenize_file(run.data, renderer)
    validation = tokenize_file(run.validation, renderer) if run.validation else []
    # By the devices that there are, not by the chosen one: a training that resumes must have the same recipe.
    recipe = run.recipe or _choose_recipe(base, examples + validation, len(examples), on_gpu=devices[0].is_gpu)
    check_recipe(base, recipe)
    check_lengths(examples, recipe.max_length)
    check_lengths(validation, recipe.max_length)
    weights = load_weights(run.base, run.unquantized_base)
    demand = _memory_demand(base, recipe, examples + validation, weights)
    choice = choose_device(demand, devices, run.quantize)
    validation.sort(key=lambda example: len(example.tokens))
    return PreparedData(examples, validation, recipe, tokenizer, weights, choice, demand)


def _choose_recipe(base: BaseDescription, examples: Sequence[TokenizedExample], count: int, *, on_gpu: bool) -> Recipe:
    longest = max(8, *(len(example.tokens) for example in examples))
    return choose_recipe(Hyperparameters(), LoraOptions(), count, base, max_length=longest, seed=0, on_gpu=on_gpu)


def _memory_demand(
    base: BaseDescription, recipe: Recipe, examples: Sequence[TokenizedExample], weights: BaseWeights
) -> MemoryDemand:
    return MemoryDemand(
        base=base,
        recipe=recipe,
        max_example_tokens=max(len(example.tokens) for example in examples),
        max_answer_tokens=max(example.answer_length for example in examples),
        can_checkpoint=weights.can_checkpoint,
        is_quantized=bool(weights.quantization),
        packed_weights_bytes=weights.packed_bytes,
    )
