"""Hyperparameters of OpenAI's API, and the choice of a recipe from them, the data and the base."""

import json
from math import ceil
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.recipes.adapter_shape import AdapterShape
from loramux_adapters.finetuning.recipes.recipe import DEFAULT_BETA, MAX_BETA, AllLinear, Method, Module, Recipe
from loramux_adapters.finetuning.recipes.trained_modules import module_names, trained_modules

Auto = Literal["auto"]

MAX_EPOCHS = 25
_MIN_EXAMPLES_SEEN = {"supervised": 1200, "dpo": 400}
"""A small file is repeated until this many examples are seen: about 150 steps; more gained little when measured. Of
pairs fewer are: the answers degrade when training goes on after they are told apart."""
_MIN_STEPS = 40
_MAX_BATCH_SIZE = 8
_REFERENCE_RATE, _REFERENCE_HIDDEN_SIZE, _RATE_EXPONENT = 2e-3, 576, 0.78
"""A learning rate that was measured to be good at one hidden size, and the exponent by which it falls with larger
ones: that of Schulman et al. for Llama models in "LoRA Without Regret" (2025)."""
_RATE_FACTOR = {"supervised": 1.0, "dpo": 0.1}
"""DPO is done with lower rates: its loss falls without limit as the answers become less likely."""
_CPU_LAYER_SHARE = 0.4
"""Share of the layers that have an adapter when training on a CPU."""
_SHOWN_CHARACTERS = 40


def _whole(low: int, high: int | None = None) -> Any:
    """Return a validator of whole numbers, or `auto`, which null means too."""
    expected = f"a whole number from {low} to {high:,}" if high else f"a whole number of at least {low}"
    return _or_auto(Annotated[int, Field(ge=low, le=high)], expected)


def _positive(high: float) -> Any:
    """Return a validator of positive numbers, or `auto`, which null means too."""
    kind = Annotated[float, Field(gt=0, le=high, allow_inf_nan=False)]
    return _or_auto(kind, f"a number above 0 and at most {high:,g}")


def _or_auto(kind: Any, expected: str) -> BeforeValidator:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def parse(value: Any) -> Any:
        if value is None or value == "auto":
            return "auto"
        try:
            return adapter.validate_python(str(value) if isinstance(value, bool) else value)  # true is no number
        except ValidationError as error:
            shown = json.dumps(value, default=str)[:_SHOWN_CHARACTERS]
            raise ValueError(f'expected {expected}, or "auto"; got {shown}') from error

    return BeforeValidator(parse)


_Modules = Annotated[tuple[Module, ...], Field(min_length=1, max_length=256)] | AllLinear
_EXPECTED_MODULES = 'a list of names of linear modules, such as ["q_proj", "v_proj"], or "all-linear"'


class _RequestModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hyperparameters(_RequestModel):
    """The hyperparameters of OpenAI's API; null is `auto`."""

    n_epochs: Annotated[int | Auto, _whole(1, 1000)] = "auto"
    batch_size: Annotated[int | Auto, _whole(1, 4096)] = "auto"
    learning_rate_multiplier: Annotated[float | Auto, _positive(1000)] = "auto"


class DpoHyperparameters(Hyperparameters):
    """The hyperparameters of DPO in OpenAI's API; null is `auto`."""

    beta: Annotated[float | Auto, _positive(MAX_BETA)] = "auto"


class LoraOptions(_RequestModel):
    """The shape of the adapter, and when training stops early, which OpenAI's API has no fields for."""

    rank: Annotated[int | Auto, _whole(1, 256)] = "auto"
    alpha: Annotated[float | Auto, _positive(4096)] = "auto"
    target_modules: Annotated[_Modules | Auto, _or_auto(_Modules, _EXPECTED_MODULES)] = "auto"
    last_layers: Annotated[int | Auto, _whole(1)] = "auto"
    early_stopping_patience: Annotated[int | Auto, _whole(0, 1000)] = "auto"
    """Passes over the validation file without a lower loss until training stops; 0: never."""


SHAPE_OPTIONS = ("rank", "alpha", "target_modules", "last_layers")


def choose_recipe(
    requested: Hyperparameters,
    lora: LoraOptions,
    examples: int,
    base: BaseDescription,
    *,
    max_length: int,
    seed: int,
    on_gpu: bool,
    method: Method = "supervised",
    beta: float | Auto = "auto",
    shape: AdapterShape | None = None,
    early_stopping_patience: int | None = None,
) -> Recipe:
    """Choose the hyperparameters that are `auto`, by the method, the number of examples and the size of the base.

    On a CPU only the last layers get an adapter: the others then need no backward pass, and serving is cheaper. The
    adapter has `shape` if training goes on from one, and `early_stopping_patience` is that of the server.

    Raises:
        ValueError: the base does not have the requested modules or layers, a chosen value is out of range, or the
            adapter to go on from has another shape than requested.
    """
    epochs = _value_or(requested.n_epochs, min(MAX_EPOCHS, max(1, ceil(_MIN_EXAMPLES_SEEN[method] / examples))))
    patience = _value_or(lora.early_stopping_patience, early_stopping_patience or 0)
    recipe = Recipe(
        **(_kept_shape(shape, lora) if shape else _new_shape(lora, base, on_gpu=on_gpu)),
        learning_rate=default_learning_rate(base, method) * _value_or(requested.learning_rate_multiplier, 1.0),
        epochs=epochs,
        batch_size=_value_or(requested.batch_size, max(1, min(_MAX_BATCH_SIZE, examples * epochs // _MIN_STEPS))),
        max_length=max_length,
        seed=seed,
        method=method,
        beta=_value_or(beta, DEFAULT_BETA) if method == "dpo" else None,
        early_stopping_patience=patience or None,
    )
    trained_modules(base, recipe)
    return recipe


def default_learning_rate(base: BaseDescription, method: Method = "supervised") -> float:
    """Return the learning rate that the multiplier applies to, rounded to two digits."""
    rate = _RATE_FACTOR[method] * _REFERENCE_RATE
    return float(f"{rate * (_REFERENCE_HIDDEN_SIZE / base.spec.hidden_size) ** _RATE_EXPONENT:.1e}")


def _new_shape(lora: LoraOptions, base: BaseDescription, *, on_gpu: bool) -> dict[str, Any]:
    layers = base.spec.num_hidden_layers
    last = _value_or(lora.last_layers, layers if on_gpu else ceil(layers * _CPU_LAYER_SHARE))
    rank = _value_or(lora.rank, 8)
    return {
        "rank": rank,
        "alpha": _value_or(lora.alpha, 2.0 * rank),
        "target_modules": _value_or(lora.target_modules, module_names(base) or "all-linear"),
        "last_layers": None if last == layers else last,
    }


def _kept_shape(shape: AdapterShape, lora: LoraOptions) -> dict[str, Any]:
    """Return the shape of an adapter that is trained further, which can't be changed.

    Raises:
        ValueError: another one is requested.
    """
    for name in SHAPE_OPTIONS:
        asked, found = getattr(lora, name), getattr(shape, name)
        if asked not in ("auto", found):
            raise ValueError(
                f"lora.{name}: the adapter to go on from keeps its own, {found}: leave it out, or train a new adapter "
                "on the base"
            )
    return shape._asdict()


def _value_or(requested: Any, default: Any) -> Any:
    return default if requested == "auto" else requested
