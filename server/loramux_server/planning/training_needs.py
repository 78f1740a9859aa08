"""What fine-tuning an adapter of a base would take on a GPU, by the trainer's own estimate."""

from collections.abc import Iterator
from dataclasses import dataclass

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.recipes.memory import MemoryStrategy
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, TrainingDevice
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_server.planning.parts import BYTES_PER_VALUE

EXAMPLE_TOKENS = 512
"""The longest example of the estimate, a quarter of it the answer."""
MAX_TRAINED_RANK = 256


@dataclass(frozen=True)
class TrainingNeed:
    """One way to train, and the bytes that it needs at its peak."""

    method: str
    required_bytes: int


def training_needs(base: BaseDescription, rank: int) -> list[TrainingNeed]:
    """Return what training an adapter of `rank` needs, the fastest way first; empty if the base can't be trained on."""
    recipe = Recipe(rank=min(rank, MAX_TRAINED_RANK))
    demand = MemoryDemand.expected(base, recipe, EXAMPLE_TOKENS, EXAMPLE_TOKENS // 4)
    device = TrainingDevice("cuda:0", 0, BYTES_PER_VALUE, can_load_in_4bit=True)
    try:
        return [TrainingNeed(name, demand.required_bytes(device, way)) for name, way in _ways(demand, device)]
    except ValueError:
        return []


def _ways(demand: MemoryDemand, device: TrainingDevice) -> Iterator[tuple[str, MemoryStrategy]]:
    batch = demand.recipe.batch_size
    yield "whole batches", MemoryStrategy(batch)
    yield "gradient checkpointing", MemoryStrategy(batch, gradient_checkpointing=True)
    yield "the same, one example at a time", MemoryStrategy(1, gradient_checkpointing=True)
    if demand.can_load_in_4bit(device):
        yield "4 bits, checkpointing", MemoryStrategy(batch, gradient_checkpointing=True, load_in_4bit=True)
        yield "the same, one example at a time", MemoryStrategy(1, gradient_checkpointing=True, load_in_4bit=True)
