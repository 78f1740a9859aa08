"""The tensors that an adapter must have, given its config and the base: these, of these shapes, and no others."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from loramux_adapters.content import CONFIG_FILE
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.records import LINEAR_MODULES, BaseSpec
from loramux_adapters.validation.config import LoraConfig, ends_with
from loramux_adapters.validation.tensors import Tensor


class Place(NamedTuple):
    """Where a tensor belongs, and its shape there: A is (rank, inputs), B is (outputs, rank)."""

    layer: int
    module: str
    shape: tuple[int, int]


def expected_tensors(config: LoraConfig, base: BaseSpec) -> dict[str, Place]:
    """Return every tensor that PEFT saves for `config` on `base`, by name; raises InvalidAdapter."""
    _check_targets(config, base)
    expected = {}
    for layer, module, path in _modules(base):
        if config.targets(layer, path):
            inputs, outputs = base.module_shape(module)
            expected[f"base_model.model.{path}.lora_A.weight"] = Place(layer, module, (config.r, inputs))
            expected[f"base_model.model.{path}.lora_B.weight"] = Place(layer, module, (outputs, config.r))
    if not expected:
        raise InvalidAdapter("the adapter changes no module of the base", where=CONFIG_FILE)
    return expected


def check_layout(tensors: Mapping[str, Tensor], expected: Mapping[str, Place]) -> None:
    """Raise InvalidAdapter at the first tensor that is unexpected, missing or of another shape."""
    if unexpected := tensors.keys() - expected.keys():
        raise InvalidAdapter("the config and the base have no place for this tensor", where=min(unexpected),
                             expected=f"{len(expected)} tensors like {next(iter(expected))}")  # fmt: skip
    for name, place in expected.items():
        if name not in tensors:
            raise InvalidAdapter("the tensor is missing", where=name)
        if tensors[name].shape != place.shape:
            raise InvalidAdapter("the shape is wrong", where=name, expected=place.shape, found=tensors[name].shape)


def _modules(base: BaseSpec) -> Iterator[tuple[int, str, str]]:
    """Yield layer, module and full name of each linear module of the base."""
    for layer in range(base.num_hidden_layers):
        for module, block in LINEAR_MODULES.items():
            yield layer, module, f"model.layers.{layer}.{block}.{module}"


def _check_targets(config: LoraConfig, base: BaseSpec) -> None:
    """Refuse what names nothing in the base: the adapter was made for another one."""
    paths = [path for _, _, path in _modules(base)]
    for target in config.target_names:
        if not any(ends_with(path, target) for path in paths):
            raise InvalidAdapter("target_modules: the base has no such linear module", where=CONFIG_FILE, found=target)
    for layer in config.layer_indices:
        if layer >= base.num_hidden_layers:
            raise InvalidAdapter("layers_to_transform: the base has no such layer", where=CONFIG_FILE,
                                 expected=f"0 to {base.num_hidden_layers - 1}", found=layer)  # fmt: skip
