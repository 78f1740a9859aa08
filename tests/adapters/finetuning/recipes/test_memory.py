from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.recipes.memory import (
    MemoryStrategy,
    TrainingSize,
    count_adapter_parameters,
    free_cpu_memory,
    leanest_strategy,
    required_bytes,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe
from tests.helpers.llama_bases import SMOL, LlamaSizes, llama_base

SIZE = TrainingSize(parameters=134_515_008, bytes_per_parameter=4, max_example_tokens=248, max_answer_tokens=47)
RECIPE = Recipe(last_layers=12, batch_size=1)


def replace_parameters(sizes: LlamaSizes, parameters: int) -> BaseDescription:
    """A Llama with a number of parameters as it is published: with a head of its own, or norms."""
    return llama_base(sizes).model_copy(update={"parameters": parameters})


def test_the_trained_parameters_are_the_adapters() -> None:
    assert count_adapter_parameters(SMOL, Recipe(rank=8, last_layers=12)) == 976_896


def test_the_need_is_a_little_above_what_was_counted_on_a_real_base() -> None:
    """Weights and what autograd kept of 248 tokens, in float32: 129 MB in a run whose answers had 47 tokens."""
    counted = 134_515_008 * 4 + 128_904_172 + 976_896 * 16
    assert counted < required_bytes(SMOL, RECIPE, SIZE) < 1.3 * counted + (256 << 20)


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        ({"batch_size": 2}, {}),
        ({"method": "dpo"}, {}),
        ({"last_layers": None}, {}),
        ({"rank": 64}, {}),
        ({}, {"max_example_tokens": 496}),
        ({}, {"max_answer_tokens": 94}),
        ({}, {"parameters": 10**9}),
    ],
)
def test_every_larger_dimension_needs_more_memory(recipe: dict[str, object], size: dict[str, int]) -> None:
    larger = required_bytes(SMOL, RECIPE.model_copy(update=recipe), replace(SIZE, **size))
    assert larger > required_bytes(SMOL, RECIPE, SIZE)


def test_bfloat16_needs_less_than_float32() -> None:
    half = TrainingSize(SIZE.parameters, 2, SIZE.max_example_tokens, SIZE.max_answer_tokens)
    assert required_bytes(SMOL, RECIPE, half) < required_bytes(SMOL, RECIPE, SIZE)


def test_the_logits_of_long_answers_are_computed_in_chunks() -> None:
    parts = [required_bytes(SMOL, RECIPE, TrainingSize(SIZE.parameters, 4, 8000, answer)) for answer in (1024, 7000)]
    assert parts[0] == parts[1]


LLAMA_8B = replace_parameters(
    LlamaSizes(4096, 14336, num_attention_heads=32, num_key_value_heads=8, head_dim=128, num_hidden_layers=32,
               vocab_size=128256), 8_030_261_248,
)  # fmt: skip
LLAMA_3B = replace_parameters(
    LlamaSizes(3072, 8192, num_attention_heads=24, num_key_value_heads=8, head_dim=128, num_hidden_layers=28,
               vocab_size=128256), 3_212_749_824,
)  # fmt: skip


@pytest.mark.parametrize(
    ("base", "batch", "tokens", "gigabytes"),
    [(LLAMA_8B, 1, 512, 24.9), (LLAMA_8B, 4, 512, 42.2), (LLAMA_8B, 8, 1024, 106), (LLAMA_3B, 1, 512, 11.4),
     (LLAMA_3B, 4, 512, 21.8), (LLAMA_3B, 8, 1024, 58), (SMOL, 8, 128, 2.2), (SMOL, 8, 256, 3.8)],
)  # fmt: skip
def test_whole_batches_without_checkpointing_need_what_was_computed_for_known_bases(
    base: BaseDescription, batch: int, tokens: int, gigabytes: float
) -> None:
    """GPU-10: bfloat16, and answers as long as their examples."""
    size = TrainingSize(base.parameters, 2, tokens, tokens)
    assert required_bytes(base, Recipe(batch_size=batch), size) == pytest.approx(gigabytes * 1e9, rel=0.16)


def test_the_parts_of_an_8b_base_in_4_bits_add_up() -> None:
    """GPU-10: weights, layer inputs and one layer, logits, and the adapter with its optimizer, for 2,048 tokens."""
    modules = 32 * (4096 * (4096 + 1024 + 1024 + 4096 + 3 * 14336))
    weights = modules * 4.127 / 8 + (8_030_261_248 - modules) * 2 + 4096 * 14336 * 2
    inputs, layer = 2048 * 4096 * 32 * 2, 2048 * 2 * (4096 + 1024 + 1024 + 4096 + 2 * 14336 + 4096 + 4096) * 3
    logits, adapter = 1024 * 128256 * 12, 8 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432) * 16
    assert [round(part / 1e9, 1) for part in (weights, inputs + layer, logits, adapter)] == [5.8, 1.1, 1.6, 0.3]
    size = TrainingSize(8_030_261_248, 2, 2048, 2048)
    found = required_bytes(LLAMA_8B, Recipe(batch_size=8), size, leanest_strategy(load_in_4bit=True))
    assert found == pytest.approx(1.15 * (weights + inputs + layer + logits + adapter) + (256 << 20), rel=0.001)


@given(
    batch=st.integers(1, 64), tokens=st.integers(8, 8192), answer=st.integers(1, 8192), rank=st.integers(1, 64),
    layers=st.integers(1, 30), size=st.integers(1, 64),
)  # fmt: skip
def test_every_measure_needs_less_than_none(
    batch: int, tokens: int, answer: int, rank: int, layers: int, size: int
) -> None:
    recipe = Recipe(batch_size=batch, rank=rank, last_layers=layers)
    run = TrainingSize(SMOL.parameters, 2, tokens, min(answer, tokens))
    plain = required_bytes(SMOL, recipe, run)
    assert plain == required_bytes(SMOL, recipe, run, MemoryStrategy(batch))
    parts = required_bytes(SMOL, recipe, run, MemoryStrategy(min(size, batch)))
    checkpoints = required_bytes(SMOL, recipe, run, MemoryStrategy(min(size, batch), gradient_checkpointing=True))
    in_4bit = required_bytes(SMOL, recipe, run, MemoryStrategy(1, gradient_checkpointing=True, load_in_4bit=True))
    if layers > 1:  # of one layer, all activations are kept either way
        assert checkpoints <= parts
    assert in_4bit <= required_bytes(SMOL, recipe, run, leanest_strategy()) <= checkpoints
    assert parts <= plain


def test_weights_that_stay_quantized_need_their_own_size() -> None:
    packed = replace(SIZE, packed_weights_bytes=80_000_000)
    difference = required_bytes(SMOL, RECIPE, SIZE) - required_bytes(SMOL, RECIPE, packed)
    assert difference == pytest.approx(1.15 * (134_515_008 * 4 - 80_000_000), rel=1e-6)


def cgroup(folder: Path, limit: str, used: int, cache: int) -> Path:
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    return folder


def test_a_containers_limit_counts_and_its_page_cache_is_free(tmp_path: Path) -> None:
    assert free_cpu_memory(cgroup(tmp_path, "1000", 900, 50)) == 150
    assert free_cpu_memory(cgroup(tmp_path, "1000", 2000, 50)) == 0


@pytest.mark.parametrize("limit", ["max", ""])
def test_without_a_limit_the_machines_memory_counts(tmp_path: Path, limit: str) -> None:
    assert free_cpu_memory(cgroup(tmp_path, limit, 1, 1)) > 1 << 20
    assert free_cpu_memory(tmp_path / "no-cgroups") > 1 << 20
