"""The names and shapes of the tensors that an adapter must have, given its config and the base."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.config import LoraConfig, ends_with
from loramux_adapters.intake.validation.tensors import TensorInfo
from loramux_adapters.models import LINEAR_MODULES, BaseSpec


class LoraPair(NamedTuple):
    """The tensors A of shape (rank, inputs) and B of shape (outputs, rank) of the linear module `name` in `layer`."""

    layer: int
    name: str
    rank: int
    scaling: float
    inputs: int
    outputs: int

    @property
    def module(self) -> str:
        """The module's full name in PEFT's files."""
        return f"base_model.model.{_path(self.layer, self.name)}"

    @property
    def a(self) -> str:
        """The name of the tensor A."""
        return f"{self.module}.lora_A.weight"

    @property
    def b(self) -> str:
        """The name of the tensor B."""
        return f"{self.module}.lora_B.weight"

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The shapes of both tensors by name."""
        return {self.a: (self.rank, self.inputs), self.b: (self.outputs, self.rank)}


def expected_pairs(config: LoraConfig, base: BaseSpec, present: Set[str]) -> list[LoraPair]:
    """Return the tensor pairs that PEFT saves for `config` on `base`.

    If a regular expression selects the modules, those with a tensor in `present` are taken instead: evaluating an
    expression from an untrusted file may never end.

    Raises:
        InvalidAdapter: the config names a module or layer that the base does not have, or changes no module.
    """
    _check_names(config, base)
    pairs = []
    for layer, module, path in _modules(base):
        if config.targets(layer, path):
            pair = LoraPair(layer, module, config.rank_of(path), config.scaling_of(path), *base.module_shape(module))
            if not config.has_expressions or pair.shapes.keys() & present:
                pairs.append(pair)
    if not pairs:
        raise InvalidAdapter("the adapter changes no module of the base", where=CONFIG_FILE)
    return pairs


def check_layout(tensors: Mapping[str, TensorInfo], pairs: Sequence[LoraPair]) -> None:
    """Check that the tensors are exactly those of `pairs`.

    Raises:
        InvalidAdapter: a tensor is unexpected, missing or has another shape.
    """
    expected = {name: shape for pair in pairs for name, shape in pair.shapes.items()}
    if unexpected := tensors.keys() - expected.keys():
        raise InvalidAdapter("unexpected tensor: the config and the base have no such module", where=min(unexpected),
                             expected=f"{len(expected)} tensors like {pairs[0].a}")  # fmt: skip
    for name, shape in expected.items():
        if name not in tensors:
            raise InvalidAdapter("the tensor is missing", where=name)
        if tensors[name].shape != shape:
            raise InvalidAdapter("the shape is wrong", where=name, expected=shape, found=tensors[name].shape)


def _modules(base: BaseSpec) -> Iterator[tuple[int, str, str]]:
    """Yield layer, name and full name of each linear module of the base."""
    for layer in range(base.num_hidden_layers):
        for module in LINEAR_MODULES:
            yield layer, module, _path(layer, module)


def _path(layer: int, module: str) -> str:
    return f"model.layers.{layer}.{LINEAR_MODULES[module]}.{module}"


def _check_names(config: LoraConfig, base: BaseSpec) -> None:
    """Refuse names that match no module of the base: the adapter was made for another one."""
    paths = [path for _, _, path in _modules(base)]
    for key, names in config.module_names.items():
        for name in names:
            if not any(ends_with(path, name) for path in paths):
                raise InvalidAdapter(f"{key}: the base has no such linear module", where=CONFIG_FILE, found=name)
    for layer in config.layer_indices:
        if layer >= base.num_hidden_layers:
            raise InvalidAdapter("layers_to_transform: the base has no such layer", where=CONFIG_FILE,
                                 expected=f"0 to {base.num_hidden_layers - 1}", found=layer)  # fmt: skip
