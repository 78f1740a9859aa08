"""The names and shapes of the tensors that an adapter must have, given its config and the base."""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from loramux_adapters.base_description import BaseDescription, TargetModule, layer_of
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.config import LoraConfig, ends_with
from loramux_adapters.intake.validation.tensors import TensorInfo


class LoraPair(NamedTuple):
    """The tensors A and B of the module at `path`, see TargetModule."""

    path: str
    target: TargetModule
    rank: int
    scaling: float

    @property
    def name(self) -> str:
        """The last part of the module's path."""
        return self.path.rpartition(".")[2]

    @property
    def layer(self) -> int | None:
        """The number of its layer; None if it is in no layer."""
        return layer_of(self.path)

    @property
    def module(self) -> str:
        """The module's full name in PEFT's files."""
        return f"base_model.model.{self.path}"

    @property
    def a(self) -> str:
        """The name of the tensor A."""
        return f"{self.module}.lora_embedding_A" if self.target.kind == "embedding" else f"{self.module}.lora_A.weight"

    @property
    def b(self) -> str:
        """The name of the tensor B."""
        return f"{self.module}.lora_embedding_B" if self.target.kind == "embedding" else f"{self.module}.lora_B.weight"

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The shapes of both tensors by name."""
        a, b = self.target.shapes(self.rank)
        return {self.a: a, self.b: b}


def expected_pairs(config: LoraConfig, base: BaseDescription, present: Set[str]) -> list[LoraPair]:
    """Return the tensor pairs that PEFT saves for `config` on `base`.

    If a regular expression selects the modules, those with a tensor in `present` are taken instead: evaluating an
    expression from an untrusted file may never end.

    Raises:
        InvalidAdapter: the config names a module or layer that the base does not have, or changes no module.
    """
    _check_names(config, base)
    pairs = []
    for path, target in sorted(base.served.items(), key=lambda item: (layer_of(item[0]) or 0, item[0])):
        if config.targets(layer_of(path), path):
            pair = LoraPair(path, target, config.rank_of(path), config.scaling_of(path))
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


def _check_names(config: LoraConfig, base: BaseDescription) -> None:
    """Refuse names that match no module of the base: the adapter was made for another one."""
    for key, names in config.module_names.items():
        for name in names:
            if not any(ends_with(path, name) for path in base.served):
                raise InvalidAdapter(f"{key}: the base has no such linear module", where=CONFIG_FILE, found=name)
    layers = base.spec.num_hidden_layers
    for layer in config.layer_indices:
        if layer >= layers:
            raise InvalidAdapter("layers_to_transform: the base has no such layer", where=CONFIG_FILE,
                                 expected=f"0 to {layers - 1}", found=layer)  # fmt: skip
