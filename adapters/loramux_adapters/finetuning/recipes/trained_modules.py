"""The modules of a base that a recipe trains."""

from collections.abc import Iterable

from loramux_adapters.base_description import BaseDescription, TargetModule, layer_of
from loramux_adapters.finetuning.recipes.recipe import Recipe


def module_names(base: BaseDescription) -> tuple[str, ...]:
    """Return the last parts of the paths of the base's linear modules that an adapter can change, in their order."""
    return tuple(dict.fromkeys(path.rpartition(".")[2] for path in base.linear))


def trained_modules(base: BaseDescription, recipe: Recipe) -> dict[str, TargetModule]:
    """Return the modules that the recipe trains, by path.

    Raises:
        ValueError: the base has no such modules or layers, or vLLM serves no adapters of it.
    """
    layers = base.spec.num_hidden_layers
    _check(base, recipe, layers)
    first = layers - (recipe.last_layers or layers)
    return {
        path: module
        for path, module in base.linear.items()
        if (layer_of(path) or 0) >= first and _is_target(path, recipe.target_modules)
    }


def _is_target(path: str, names: Iterable[str]) -> bool:
    return names == "all-linear" or any(path.endswith(f".{name}") for name in names)


def _check(base: BaseDescription, recipe: Recipe, layers: int) -> None:
    if base.refusal:
        raise ValueError(base.refusal)
    if (recipe.last_layers or 0) > layers:
        raise ValueError(f"last_layers is {recipe.last_layers}, but the base has only {layers} layers")
    names = () if recipe.target_modules == "all-linear" else recipe.target_modules
    if unknown := [name for name in names if not any(_is_target(path, (name,)) for path in base.linear)]:
        expected = ", ".join(module_names(base))
        raise ValueError(f"target_modules: the base has no linear module {unknown[0]!r}; expected some of {expected}")
