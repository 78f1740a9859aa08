"""Hyperparameters of OpenAI's API, and the choice of a recipe from them, the data and the base."""

from math import ceil
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.recipes.recipe import AllLinear, Module, Recipe
from loramux_adapters.finetuning.recipes.trained_modules import module_names, trained_modules

Auto = Literal["auto"]

MAX_EPOCHS = 25
_MIN_EXAMPLES_SEEN = 1200
"""A small file is repeated until this many examples are seen: about 150 steps; more gained little when measured."""
_MIN_STEPS = 40
_MAX_BATCH_SIZE = 8
_REFERENCE_RATE, _REFERENCE_HIDDEN_SIZE, _RATE_EXPONENT = 2e-3, 576, 0.78
"""A learning rate that was measured to be good at one hidden size, and the exponent by which it falls with larger
ones: that of Schulman et al. for Llama models in "LoRA Without Regret" (2025)."""
_CPU_LAYER_SHARE = 0.4
"""Share of the layers that have an adapter when training on a CPU."""


class _RequestModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hyperparameters(_RequestModel):
    """The hyperparameters of OpenAI's API."""

    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | Auto = "auto"


class LoraOptions(_RequestModel):
    """The shape of the adapter, which OpenAI's API has no fields for."""

    rank: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    alpha: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] | Auto = "auto"
    target_modules: Annotated[tuple[Module, ...], Field(min_length=1, max_length=256)] | AllLinear | Auto = "auto"
    last_layers: Annotated[int, Field(ge=1)] | Auto = "auto"


def choose_recipe(
    requested: Hyperparameters,
    lora: LoraOptions,
    examples: int,
    base: BaseDescription,
    *,
    max_length: int,
    seed: int,
    on_gpu: bool,
) -> Recipe:
    """Choose the hyperparameters that are `auto`, by the number of examples and the size of the base.

    On a CPU only the last layers get an adapter: the others then need no backward pass, and serving is cheaper.

    Raises:
        ValueError: the base does not have the requested modules or layers, or a chosen value is out of range.
    """
    layers = base.spec.num_hidden_layers
    last = _value_or(lora.last_layers, layers if on_gpu else ceil(layers * _CPU_LAYER_SHARE))
    epochs = _value_or(requested.n_epochs, min(MAX_EPOCHS, max(1, ceil(_MIN_EXAMPLES_SEEN / examples))))
    rank = _value_or(lora.rank, 8)
    recipe = Recipe(
        rank=rank,
        alpha=_value_or(lora.alpha, 2.0 * rank),
        target_modules=_value_or(lora.target_modules, module_names(base) or "all-linear"),
        last_layers=None if last == layers else last,
        learning_rate=default_learning_rate(base) * _value_or(requested.learning_rate_multiplier, 1.0),
        epochs=epochs,
        batch_size=_value_or(requested.batch_size, max(1, min(_MAX_BATCH_SIZE, examples * epochs // _MIN_STEPS))),
        max_length=max_length,
        seed=seed,
    )
    trained_modules(base, recipe)
    return recipe


def default_learning_rate(base: BaseDescription) -> float:
    """Return the learning rate that the multiplier applies to, rounded to two digits."""
    return float(f"{_REFERENCE_RATE * (_REFERENCE_HIDDEN_SIZE / base.spec.hidden_size) ** _RATE_EXPONENT:.1e}")


def _value_or(requested: Any, default: Any) -> Any:
    return default if requested == "auto" else requested
