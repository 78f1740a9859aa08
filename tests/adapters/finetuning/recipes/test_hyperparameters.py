import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.recipes.hyperparameters import (
    Hyperparameters,
    LoraOptions,
    choose_recipe,
    default_learning_rate,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe
from tests.helpers.llama_bases import SMOL, LlamaSizes, llama_base


def recipe(examples: int, base: BaseDescription = SMOL, *, on_gpu: bool = False, **wanted: object) -> Recipe:
    requested = Hyperparameters.model_validate(wanted)
    return choose_recipe(requested, LoraOptions(), examples, base, max_length=64, seed=3, on_gpu=on_gpu)


def test_many_examples_are_seen_once_and_few_often() -> None:
    assert [recipe(count).epochs for count in (10, 100, 600, 1300, 10**6)] == [25, 12, 2, 1, 1]


def test_requested_values_are_kept() -> None:
    found = recipe(1000, n_epochs=3, batch_size=5, learning_rate_multiplier=0.5)
    assert (found.epochs, found.batch_size, found.learning_rate) == (3, 5, 0.5 * default_learning_rate(SMOL))


def test_on_a_cpu_only_the_last_layers_get_an_adapter_and_on_a_gpu_all() -> None:
    assert (recipe(100).last_layers, recipe(100, on_gpu=True).last_layers) == (12, None)


def test_a_larger_base_has_a_lower_learning_rate() -> None:
    larger = llama_base(LlamaSizes(hidden_size=4096))
    assert default_learning_rate(SMOL) == 2e-3
    assert 3e-4 < default_learning_rate(larger) < 5e-4


def test_more_layers_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="last_layers is 31, but the base has only 30"):
        choose_recipe(Hyperparameters(), LoraOptions(last_layers=31), 9, SMOL, max_length=9, seed=0, on_gpu=False)


@given(st.integers(1, 10**7))
def test_any_number_of_examples_gives_a_complete_recipe(examples: int) -> None:
    found = recipe(examples)
    assert 1 <= found.batch_size <= 8
    assert "auto" not in found.model_dump().values()
