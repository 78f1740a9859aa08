"""The shape of an adapter that training goes on from, as far as a recipe can say it."""

from pathlib import Path
from typing import NamedTuple

from loramux_adapters.base_description import BaseDescription, layer_of
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.config import parse_config
from loramux_adapters.intake.validation.selection import select
from loramux_adapters.intake.validation.strict_json import parse_object


class AdapterShape(NamedTuple):
    """The fields of a recipe that the adapter itself decides: what it is trained with is in its own config.

    Ranks that differ between modules are shown by the largest one, and other modules than linear ones not at all.
    """

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    last_layers: int | None


def read_adapter_shape(folder: Path, base: BaseDescription) -> AdapterShape:
    """Return the shape of the adapter in a folder of PEFT's files.

    Raises:
        InvalidAdapter: its config is malformed.
        ValueError: it adapts no linear module of the base, or its head.
        OSError: its config can't be read.
    """
    config = parse_config(parse_object((folder / CONFIG_FILE).read_bytes(), CONFIG_FILE))
    modules = select(config, base).modules
    if heads := [path for path in modules if base.modules[path].is_head]:
        raise ValueError(
            f"the adapter changes the base's head ({heads[0]}), which TRL's trainers do not train: train a new adapter"
        )
    adapted = {path: found for path, found in modules.items() if path in base.linear}
    if not adapted:
        raise ValueError("the adapter changes no linear module of the base, so training can't go on from it")
    layers = base.spec.num_hidden_layers
    last = layers - min(layer_of(path) or 0 for path in adapted)
    return AdapterShape(
        rank=max(found.rank for found in adapted.values()),
        alpha=config.lora_alpha,
        target_modules=tuple(dict.fromkeys(path.rpartition(".")[2] for path in adapted)),
        last_layers=None if last == layers else last,
    )
