"""The names and shapes of the tensors that an adapter must have, given its config and the base."""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from loramux_adapters.base_description import BaseDescription, TargetModule, layer_of
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE
from loramux_adapters.intake.validation.config import LoraConfig
from loramux_adapters.intake.validation.selection import Adapted, Selection
from loramux_adapters.intake.validation.tensors import TensorInfo
from loramux_adapters.intake.validation.unexpected import unexpected_tensor


class LoraPair(NamedTuple):
    """The tensors A and B of the module at `path`, see TargetModule."""

    path: str
    target: TargetModule
    rank: int
    scaling: float

    @property
    def name(self) -> str:
        """The module's name in its layer, or that of the parameter that it holds."""
        return self.target.parameter or self.path.rpartition(".")[2]

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


def expected_pairs(
    config: LoraConfig, selection: Selection, base: BaseDescription, tensors: Mapping[str, TensorInfo]
) -> list[LoraPair]:
    """Return the tensor pairs that the file must have: those of the adapted modules to which vLLM applies adapters.

    Other adapted modules must have none. If they have none, the adapter does not change them: for example, it was made
    for the language model of a base that also reads images. The same goes for modules that only some models have which
    PEFT adapts with this config: matrices of single experts, and a head that is tied to the embedding.

    Raises:
        InvalidAdapter: the config adapts no module of the base, or one to which vLLM applies no adapters.
    """
    everything = [
        LoraPair(path, base.modules[path], *_rank_and_scaling(config, found))
        for path, found in sorted(selection.modules.items(), key=lambda item: (layer_of(item[0]) or 0, item[0]))
    ]
    experts = {pair.path for pair in everything if pair.target.is_expert}
    absent = _absent(everything, experts, tensors) | _absent(everything, selection.tied, tensors)
    pairs = [pair for pair in everything if pair.path in base.served and pair.path not in absent]
    others = [pair for pair in everything if pair.path not in base.served]
    for pair in others:
        if not pairs or pair.shapes.keys() & tensors.keys():
            raise InvalidAdapter(pair.target.refusal or "vLLM applies no adapters to it", where=pair.module)
    if not pairs:
        raise _no_module(config)
    _check_experts(pairs, base)
    return pairs


def check_layout(tensors: Mapping[str, TensorInfo], pairs: Sequence[LoraPair], base: BaseDescription) -> None:
    """Check that the tensors are exactly those of `pairs`.

    Raises:
        InvalidAdapter: a tensor is unexpected, missing or has another shape.
    """
    expected = {name: shape for pair in pairs for name, shape in pair.shapes.items()}
    if unexpected := tensors.keys() - expected.keys():
        name = min(unexpected)
        raise unexpected_tensor(name, tensors[name].shape, base, f"{len(expected)} tensors like {pairs[0].a}")
    for name, shape in expected.items():
        if name not in tensors:
            raise InvalidAdapter("the tensor is missing", where=name)
        if tensors[name].shape != shape:
            raise InvalidAdapter("the shape is wrong", where=name, expected=shape, found=tensors[name].shape)


def _absent(pairs: Sequence[LoraPair], paths: Set[str], tensors: Mapping[str, TensorInfo]) -> Set[str]:
    """Return `paths` if the file has no tensor of any of these modules."""
    is_present = any(pair.shapes.keys() & tensors.keys() for pair in pairs if pair.path in paths)
    return set() if is_present else paths


def _rank_and_scaling(config: LoraConfig, found: Adapted) -> tuple[int, float]:
    return found.rank, config.scaling_of(found.alpha, found.rank)


def _no_module(config: LoraConfig) -> InvalidAdapter:
    targets, problem = config.target_modules, "the adapter changes no module of the base"
    if not isinstance(targets, str):
        return InvalidAdapter(f"target_modules: {problem}", where=CONFIG_FILE, found=targets)
    return InvalidAdapter(
        f"target_modules: {problem}: PEFT reads text as an expression for whole names",
        where=CONFIG_FILE,
        expected="an expression that matches, or a list of the ends of names",
        found=targets,
    )


def _check_experts(pairs: Sequence[LoraPair], base: BaseDescription) -> None:
    """Refuse experts of a layer that are adapted in part: vLLM packs all their matrices into one."""
    adapted = {pair.path: pair.rank for pair in pairs}
    layers: dict[str, dict[str, set[int | None]]] = {}
    for path in base.served:
        layer, experts, rest = f"{path}.".partition(".experts.")
        if experts:
            kind = rest.rstrip(".").rpartition(".")[2]
            layers.setdefault(layer, {}).setdefault(kind, set()).add(adapted.get(path))
    for layer, ranks in layers.items():
        found = set().union(*ranks.values())
        if found != {None} and (None in found or any(len(each) > 1 for each in ranks.values())):
            raise InvalidAdapter(
                "vLLM adapts all matrices of a layer's experts or none, those of one kind with equal ranks",
                where=f"base_model.model.{layer}.experts",
            )
