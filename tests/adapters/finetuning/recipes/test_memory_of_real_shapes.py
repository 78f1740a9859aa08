"""The estimated memory of training on bases of real sizes, compared with the tensors of a step; GPU-10."""

import pytest

from loramux_adapters.finetuning.recipes.memory import (
    MemoryStrategy,
    TrainingSize,
    count_adapter_parameters,
    required_bytes,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe
from tests.helpers.llama_bases import LlamaSizes, llama_base
from tests.helpers.peak_memory import peak_bytes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LLAMA_1B = LlamaSizes(2048, 8192, 32, 8, 64, 16, 128256)
LLAMA_8B = LlamaSizes(4096, 14336, 32, 8, 128, 32, 128256)
MOMENTS = 8  # bytes per trained parameter that AdamW makes at its first step, which is after the backward pass


@pytest.mark.parametrize(
    ("sizes", "batch", "tokens", "answer", "last_layers", "checkpointing"),
    [
        (LLAMA_1B, 1, 512, 512, None, False),
        (LLAMA_1B, 4, 512, 100, None, False),
        (LLAMA_1B, 4, 512, 100, None, True),
        (LLAMA_1B, 1, 2048, 1000, None, True),
        (LLAMA_1B, 8, 256, 10, 4, False),
        (LLAMA_1B, 8, 256, 10, 4, True),
        (LLAMA_8B, 1, 512, 100, None, False),
        (LLAMA_8B, 1, 2048, 1000, None, True),
        (LLAMA_8B, 4, 1024, 10, 8, True),
    ],
)
def test_the_estimate_is_a_little_above_the_tensors_of_a_step(
    sizes: LlamaSizes, batch: int, tokens: int, answer: int, last_layers: int | None, checkpointing: bool
) -> None:
    base, recipe = llama_base(sizes), Recipe(batch_size=batch, last_layers=last_layers)
    found = peak_bytes(sizes, recipe, tokens, answer, checkpointing=checkpointing)
    found += count_adapter_parameters(base, recipe) * MOMENTS
    estimated = required_bytes(
        base, recipe, TrainingSize(base.parameters, 2, tokens, answer), MemoryStrategy(batch, checkpointing)
    )
    assert found < estimated < 1.35 * found + (256 << 20)
