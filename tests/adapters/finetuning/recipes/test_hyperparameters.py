import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.recipes.adapter_shape import AdapterShape
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


def test_dpo_has_a_lower_rate_fewer_epochs_and_trls_beta() -> None:
    options = {"max_length": 64, "seed": 0, "on_gpu": False, "method": "dpo"}
    found = choose_recipe(Hyperparameters(), LoraOptions(), 100, SMOL, **options)  # type: ignore[arg-type]
    assert (found.method, found.beta, found.epochs) == ("dpo", 0.1, 4)
    assert found.learning_rate == default_learning_rate(SMOL, "dpo") < default_learning_rate(SMOL)
    other = choose_recipe(Hyperparameters(), LoraOptions(), 100, SMOL, beta=0.5, **options)  # type: ignore[arg-type]
    assert other.beta == 0.5
    assert recipe(100).beta is None


@pytest.mark.parametrize(("asked", "server", "found"), [("auto", None, None), ("auto", 2, 2), (3, 2, 3), (0, 2, None)])
def test_a_jobs_patience_precedes_the_servers(asked: object, server: int | None, found: int | None) -> None:
    lora = LoraOptions.model_validate({"early_stopping_patience": asked})
    options = {"max_length": 64, "seed": 0, "on_gpu": False, "early_stopping_patience": server}
    chosen = choose_recipe(Hyperparameters(), lora, 100, SMOL, **options)  # type: ignore[arg-type]
    assert chosen.early_stopping_patience == found


def test_an_adapter_that_is_trained_further_keeps_its_shape() -> None:
    shape = AdapterShape(rank=16, alpha=4.0, target_modules=("q_proj",), last_layers=3)
    options = {"max_length": 64, "seed": 0, "on_gpu": True, "shape": shape}
    found = choose_recipe(Hyperparameters(), LoraOptions(rank=16), 100, SMOL, **options)  # type: ignore[arg-type]
    assert (found.rank, found.alpha, found.target_modules, found.last_layers) == shape
    with pytest.raises(ValueError, match=r"lora.alpha: the adapter to go on from keeps its own, 4\.0: leave it out"):
        choose_recipe(Hyperparameters(), LoraOptions(alpha=8), 100, SMOL, **options)  # type: ignore[arg-type]


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


@given(value=JSON)
@pytest.mark.parametrize("name", ["n_epochs", "batch_size", "learning_rate_multiplier"])
def test_any_value_is_taken_or_refused_with_what_is_expected(name: str, value: object) -> None:
    try:
        found = getattr(Hyperparameters.model_validate({name: value}), name)
    except ValidationError as error:
        [problem] = error.errors()
        assert problem["msg"].startswith("Value error, expected a ")
        assert len(problem["msg"]) < 200
    else:
        assert found == "auto" or 0 < found <= 4096
        assert not isinstance(value, bool)
