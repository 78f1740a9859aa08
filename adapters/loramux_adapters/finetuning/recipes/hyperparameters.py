"""Hyperparameters in the words of OpenAI's API, and the recipe that they become when the data is known."""

from math import ceil
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.finetuning.recipes.recipe import ALL_LINEAR, Module, Recipe
from loramux_adapters.models import BaseSpec

Auto = Literal["auto"]

MOST_EPOCHS = 25
_EXAMPLES_SEEN = 1200
"""So many are seen at least, a small file's again and again: about 150 steps, after which little was gained here."""
_LEAST_STEPS = 40
_LARGEST_BATCH = 8
_RATE, _RATE_HIDDEN, _RATE_POWER = 2e-3, 576, 0.78
"""A rate that was measured to be good at a hidden size, and how it falls with larger ones: the exponent that Schulman
et al. found for Llama models in "LoRA Without Regret" (2025)."""
_CPU_LAYERS = 0.4


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hyperparameters(_Given):
    """What OpenAI's clients can ask for."""

    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | Auto = "auto"


class LoraOptions(_Given):
    """What they can't: the adapter's shape."""

    rank: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    alpha: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] | Auto = "auto"
    target_modules: Annotated[tuple[Module, ...], Field(min_length=1)] | Auto = "auto"
    last_layers: Annotated[int, Field(ge=1)] | Auto = "auto"


def recipe_for(
    wanted: Hyperparameters,
    lora: LoraOptions,
    examples: int,
    base: BaseSpec,
    *,
    max_length: int,
    seed: int,
    on_gpu: bool,
) -> Recipe:
    """Choose what was left open, by the number of examples and the size of the base.

    On a CPU the adapter sits on the last layers only, because the others then need no backward pass, and are cheaper to
    serve. Raises ValueError if the base has fewer layers than were asked for.
    """
    layers = base.num_hidden_layers
    last = _or(lora.last_layers, layers if on_gpu else ceil(layers * _CPU_LAYERS))
    if last > layers:
        raise ValueError(f"last_layers is {last}, but the base has {layers} layers")
    epochs = _or(wanted.n_epochs, min(MOST_EPOCHS, max(1, ceil(_EXAMPLES_SEEN / examples))))
    rank = _or(lora.rank, 8)
    return Recipe(
        rank=rank,
        alpha=_or(lora.alpha, 2.0 * rank),
        target_modules=_or(lora.target_modules, ALL_LINEAR),
        last_layers=None if last == layers else last,
        learning_rate=learning_rate(base) * _or(wanted.learning_rate_multiplier, 1.0),
        epochs=epochs,
        batch_size=_or(wanted.batch_size, max(1, min(_LARGEST_BATCH, examples * epochs // _LEAST_STEPS))),
        max_length=max_length,
        seed=seed,
    )


def learning_rate(base: BaseSpec) -> float:
    """Return the rate that the multiplier multiplies: two digits, so that it can be read."""
    return float(f"{_RATE * (_RATE_HIDDEN / base.hidden_size) ** _RATE_POWER:.1e}")


def _or(wanted: Any, default: Any) -> Any:
    return default if wanted == "auto" else wanted
