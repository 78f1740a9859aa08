"""The modules of a base that PEFT adapts for a config, each with its rank and alpha."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from loramux_adapters.base_description import BaseDescription, TargetModule
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.config import ALL_LINEAR, LoraConfig
from loramux_adapters.intake.validation.expressions import (
    Expression,
    end_of_name,
    ends,
    layer_number,
    matching_names,
    whole_name,
)

MIN_PATTERNS = 256
"""The patterns that are allowed for any base; more are allowed up to its number of modules."""
# PEFT's: without layers_pattern, the layer's number is the first in the name, and not that of an expert.
_FIRST_NUMBER = re.compile(r".*?\.[^.]*\.(\d+)\.")
Value = TypeVar("Value", int, float)
PatternKey = Literal["rank_pattern", "alpha_pattern"]
Answers = Mapping[Expression, Mapping[str, str | None]]
"""The names that match each expression, with the text of its group `idx`."""


class Adapted(NamedTuple):
    """The rank and alpha of an adapted module."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class Selection:
    """The modules that PEFT adapts for a config, by path, and entries of the config without effect, by key."""

    modules: Mapping[str, Adapted]
    unused: Mapping[str, Sequence[object]]
    tied: frozenset[str] = frozenset()
    """The adapted head, if it is adapted only where it has the weights of the embedding."""

    def warnings(self, keys: Container[str] | None = None) -> list[str]:
        """Return a warning for each of `keys` (default: all) with entries without effect."""
        return [_warning(key, found) for key, found in self.unused.items() if found and (keys is None or key in keys)]


def select(config: LoraConfig, base: BaseDescription, names: Mapping[str, str] | None = None) -> Selection:
    """Return the modules of `base` that PEFT adapts for `config`.

    `names` has the paths of modules in the model that the adapter was trained on, by their paths in `base`, where they
    differ.

    Raises:
        InvalidAdapter: an expression is malformed or takes too long, or there are too many entries.
    """
    _check_sizes(config, base)
    known = {path: pattern_name((names or {}).get(path, path), module) for path, module in base.modules.items()}
    modules = {path: name for path, name in known.items() if base.modules[path].parameter is None}
    parameters = {path: name for path, name in known.items() if path not in modules}
    asked = list(_expressions(config))
    answers = dict(zip(asked, matching_names(asked, list(known.values())), strict=True))
    targets = _targets(config, base, modules, answers) - _excluded(config, modules, answers)
    targets |= _listed(parameters.values(), config.target_parameters)
    tied = _tied_heads(config, base, modules, targets)
    targets |= tied
    ranks = _first_values("rank_pattern", config.rank_pattern or {}, answers)
    alphas = _first_values("alpha_pattern", config.alpha_pattern or {}, answers)
    adapted = {
        path: Adapted(ranks.get(name, config.r), alphas.get(name, config.lora_alpha))
        for path, name in known.items()
        if name in targets
    }
    unused = _unused(config, modules, parameters.values(), targets, answers)
    return Selection(adapted, unused, frozenset(path for path, name in modules.items() if name in tied))


def pattern_name(path: str, module: TargetModule) -> str:
    """Return the name by which PEFT's config refers to a module, or to the parameter that a module holds."""
    return path if module.parameter is None else f"{path.replace('.base_layer', '')}.{module.parameter}"


def _check_sizes(config: LoraConfig, base: BaseDescription) -> None:
    limit = max(MIN_PATTERNS, len(base.modules))
    for key in ("rank_pattern", "alpha_pattern", "target_modules", "target_parameters", "exclude_modules"):
        found = getattr(config, key)
        if found is not None and not isinstance(found, str) and len(found) > limit:
            raise InvalidAdapter(f"{key}: more entries than the base has modules", where=CONFIG_FILE,
                                 expected=f"at most {limit}", found=len(found))  # fmt: skip


def _patterns(config: LoraConfig) -> dict[PatternKey, Mapping[str, float]]:
    return {"rank_pattern": config.rank_pattern or {}, "alpha_pattern": config.alpha_pattern or {}}


def _expressions(config: LoraConfig) -> Iterable[Expression]:
    wholes = {"target_modules": config.target_modules, "exclude_modules": config.exclude_modules}
    yield from (whole_name(key, text) for key, text in wholes.items() if isinstance(text, str))
    yield from (layer_number("layers_pattern", text) for text in config.layer_lists)
    yield from (end_of_name(key, text) for key, pattern in _patterns(config).items() for text in pattern)


def _is_expression(targets: str) -> bool:
    return targets.lower() != ALL_LINEAR


def _targets(config: LoraConfig, base: BaseDescription, modules: Mapping[str, str], answers: Answers) -> set[str]:
    """Return the names of modules that `target_modules` selects."""
    targets = config.target_modules
    if isinstance(targets, str) and not _is_expression(targets):
        return {name for path, name in modules.items() if _is_linear(base.modules[path])}
    if isinstance(targets, str):
        return answers[whole_name("target_modules", targets)].keys() & set(modules.values())
    found, whole, layers = _listed(modules.values(), targets), set(targets or ()), set(config.layer_indices)
    if not layers:
        return found
    numbers = _layer_numbers(config, found, answers)
    return {name for name in found if name in whole or numbers.get(name) in layers}


def _is_linear(module: TargetModule) -> bool:
    return module.kind == "linear" and not module.is_head


def _excluded(config: LoraConfig, modules: Mapping[str, str], answers: Answers) -> Set[str]:
    excluded = config.exclude_modules
    if isinstance(excluded, str):
        return answers[whole_name("exclude_modules", excluded)].keys()
    return _listed(modules.values(), excluded)


def _tied_heads(config: LoraConfig, base: BaseDescription, modules: Mapping[str, str], targets: Set[str]) -> set[str]:
    """Return the head if PEFT adapts it together with the embedding, and only then."""
    kinds = {name: base.modules[path] for path, name in modules.items()}
    if not config.ensure_weight_tying or not any(kinds[name].kind == "embedding" for name in targets & kinds.keys()):
        return set()
    return {name for name, module in kinds.items() if module.is_head} - targets


def _listed(names: Iterable[str], listed: Iterable[str] | None) -> set[str]:
    """Return the names of which the whole or an end after a dot is in `listed`."""
    wanted = set(listed or ())
    return {name for name in names if any(end in wanted for end in ends(name))}


def _layer_numbers(config: LoraConfig, names: Iterable[str], answers: Answers) -> dict[str, int]:
    """Return the number of each name's layer; names in no layer are left out."""
    if not config.layer_lists:
        return {name: int(found[1]) for name in names if (found := _FIRST_NUMBER.match(name))}
    matches = [answers[layer_number("layers_pattern", text)] for text in config.layer_lists]
    first = {name: next((match[name] for match in matches if name in match), None) for name in names}
    return {name: int(number) for name, number in first.items() if number is not None}


def _first_values(key: PatternKey, pattern: Mapping[str, Value], answers: Answers) -> dict[str, Value]:
    """Return the value of each name that matches, which is that of the first match, as in PEFT and vLLM."""
    values: dict[str, Value] = {}
    for text, value in pattern.items():
        for name in answers[end_of_name(key, text)]:
            values.setdefault(name, value)
    return values


def _unused(
    config: LoraConfig, modules: Mapping[str, str], parameters: Iterable[str], chosen: Set[str], answers: Answers
) -> dict[str, list[object]]:
    """Return the entries of the config that have no effect, by key."""
    listed = config.target_modules if isinstance(config.target_modules, list) else []
    module_ends = {end for name in modules.values() for end in ends(name)}
    parameter_ends = {end for name in parameters for end in ends(name)}
    numbers = set(_layer_numbers(config, modules.values(), answers).values())
    return {
        "target_modules": [name for name in listed if name not in module_ends],
        "target_parameters": [name for name in config.target_parameters or () if name not in parameter_ends],
        "layers_to_transform": [index for index in config.layer_indices if index not in numbers],
        **{
            key: [text for text in pattern or () if not chosen & answers[end_of_name(key, text)].keys()]
            for key, pattern in _patterns(config).items()
        },
    }


def _warning(key: str, found: Sequence[object]) -> str:
    return InvalidAdapter(f"{key}: entries that match no adapted module of the base are ignored",
                          where=CONFIG_FILE, found=found).message  # fmt: skip
