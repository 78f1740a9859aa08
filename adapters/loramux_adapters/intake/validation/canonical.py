"""The form of a config in which the engine reads the same ranks and alphas as PEFT, and evaluates no expressions."""

import json
from collections.abc import Mapping
from typing import Any

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.config import LoraConfig, parse_config
from loramux_adapters.intake.validation.expressions import ends, is_plain
from loramux_adapters.intake.validation.selection import Selection, pattern_name, select

_PATTERNS = ("rank_pattern", "alpha_pattern")
_DEFAULTS = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
_TYPED = ("r", "rank_pattern", "use_rslora")
"""Keys whose values vLLM does not convert: 8.0 to 8, or null to false."""


def canonical_config(
    values: dict[str, Any], base: BaseDescription, names: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the config to store for `values`, the object in adapter_config.json, and notes on what was changed.

    `names` has the paths of modules in the model that the adapter was trained on, by their paths in `base`, where they
    differ. A config that needs no change is returned as it is, without notes.

    Raises:
        InvalidAdapter: a value is malformed, or an expression is malformed or takes too long.
    """
    config = parse_config(values)
    selection = select(config, base, names)
    changes = _typed(values, config)
    if names:
        changes |= _renamed_targets(selection, base)
    patterns = [key for key in _PATTERNS if getattr(config, key)]
    rewritten = [key for key in patterns if names or not _is_canonical(values[key], selection, base)]
    changes |= {key: _full_names(key, config, selection, base) for key in rewritten}
    notes = selection.warnings(rewritten if not names else None)
    if rewritten:
        problem = f"{' and '.join(rewritten)}: written with the full names of the modules that PEFT would choose"
        notes.append(InvalidAdapter(problem, where=CONFIG_FILE).message)
    return ({**values, **changes}, notes) if changes else (values, notes)


def _is_canonical(pattern: Mapping[str, object], selection: Selection, base: BaseDescription) -> bool:
    """Whether all keys of a pattern are ends of names of adapted modules, and not other expressions."""
    known = {end for path in selection.modules for end in ends(pattern_name(path, base.modules[path]))}
    return all(is_plain(key) and key in known for key in pattern)


def _typed(values: Mapping[str, Any], config: LoraConfig) -> dict[str, Any]:
    found = {key: getattr(config, key) for key in _TYPED if key in values and key in config.model_fields_set}
    return {key: value for key, value in found.items() if json.dumps(value) != json.dumps(values[key])}


def _full_names(key: str, config: LoraConfig, selection: Selection, base: BaseDescription) -> dict[str, Any]:
    """Return the pattern by the full names of modules whose value is not the default."""
    values = {
        path: adapted.rank if key == "rank_pattern" else adapted.alpha for path, adapted in selection.modules.items()
    }
    default = getattr(config, _DEFAULTS[key])
    return {pattern_name(path, base.modules[path]): value for path, value in values.items() if value != default}


def _renamed_targets(selection: Selection, base: BaseDescription) -> dict[str, Any]:
    """Return the keys that choose the modules, by the names of `base`."""
    parameters = {path for path in selection.modules if base.modules[path].parameter is not None}
    return {
        "target_modules": sorted(selection.modules.keys() - parameters - selection.tied),
        "target_parameters": sorted(pattern_name(path, base.modules[path]) for path in parameters) or None,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
