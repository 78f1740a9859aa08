from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.errors import InsufficientMemory
from loramux_adapters.finetuning.recipes.memory import (
    TrainingSize,
    check_memory,
    count_adapter_parameters,
    free_cpu_memory,
    required_bytes,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe
from tests.helpers.llama_bases import SMOL

SIZE = TrainingSize(parameters=134_515_008, bytes_per_parameter=4, max_example_tokens=248, max_answer_tokens=47)
RECIPE = Recipe(last_layers=12, batch_size=1)


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
        ({"last_layers": None}, {}),
        ({"rank": 64}, {}),
        ({}, {"max_example_tokens": 496}),
        ({}, {"max_answer_tokens": 94}),
        ({}, {"parameters": 10**9}),
    ],
)
def test_every_larger_dimension_needs_more_memory(recipe: dict[str, int], size: dict[str, int]) -> None:
    larger = required_bytes(SMOL, RECIPE.model_copy(update=recipe), replace(SIZE, **size))
    assert larger > required_bytes(SMOL, RECIPE, SIZE)


def test_bfloat16_needs_less_than_float32() -> None:
    half = TrainingSize(SIZE.parameters, 2, SIZE.max_example_tokens, SIZE.max_answer_tokens)
    assert required_bytes(SMOL, RECIPE, half) < required_bytes(SMOL, RECIPE, SIZE)


def test_the_logits_of_long_answers_are_computed_in_chunks() -> None:
    parts = [required_bytes(SMOL, RECIPE, TrainingSize(SIZE.parameters, 4, 8000, answer)) for answer in (1024, 7000)]
    assert parts[0] == parts[1]


@given(need=st.integers(0, 10**12), free=st.integers(0, 10**12))
def test_only_a_run_that_does_not_fit_is_refused(need: int, free: int) -> None:
    if need <= free:
        check_memory(need, free, RECIPE, "cpu")
    else:
        with pytest.raises(InsufficientMemory):
            check_memory(need, free, RECIPE, "cpu")


def test_a_refusal_names_the_required_and_the_free_memory_and_a_fix() -> None:
    with pytest.raises(InsufficientMemory) as refused:
        check_memory(5_300_000_000, 1_200_000_000, Recipe(batch_size=8), "cuda:1")
    message = str(refused.value)
    assert message.startswith("training needs about 5.3 GB of memory, and 1.2 GB are free on cuda:1: ")
    assert "batch_size (now 8)" in message
    assert "gpu_memory_utilization" in message
    assert "\n" not in message


def test_a_refusal_on_a_cpu_does_not_mention_the_gpu() -> None:
    with pytest.raises(InsufficientMemory) as refused:
        check_memory(2, 1, Recipe(), "cpu")
    assert "gpu" not in str(refused.value)


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
