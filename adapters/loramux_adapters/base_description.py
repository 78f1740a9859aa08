"""The base model's own account of the modules that an adapter can change, and of their shapes.

A process of its own computes it from transformers, PEFT and vLLM, once per base, and writes it as JSON; reading it
needs none of them.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from loramux_adapters.base_memory import BaseMemory
from loramux_adapters.models import BaseSpec

Kind = Literal["linear", "embedding"]
_LAYER = re.compile(r"\.(\d+)\.")


def layer_of(path: str) -> int | None:
    """Return the number of a module's layer, which is the first number in its path; None if it is in no layer."""
    found = _LAYER.search(path)
    return int(found[1]) if found else None


class TargetModule(BaseModel):
    """The shape of a module that PEFT can adapt, and whether vLLM applies adapters to it.

    An adapter of rank r has a matrix A of (r * experts, inputs) and a matrix B of (outputs, r * experts).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: PositiveInt
    outputs: PositiveInt
    kind: Kind = "linear"
    """PEFT names the tensors of an embedding `lora_embedding_A` and `lora_embedding_B`."""
    experts: PositiveInt = 1
    """The number of experts, if PEFT adapts a parameter that holds all of them (`target_parameters`)."""
    parameter: str | None = None
    """The name of that parameter in its module, by which rank_pattern and alpha_pattern refer to it."""
    is_head: bool = False
    """Whether it computes the logits; PEFT's `all-linear` leaves it out."""
    is_expert: bool = False
    """Whether it is a matrix of one expert, which `all-linear` means only in older releases of transformers."""
    refusal: str | None = None
    """Why vLLM does not apply an adapter to it; None if it does."""

    def shapes(self, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the shapes of A and B at this rank."""
        return (rank * self.experts, self.inputs), (self.outputs, rank * self.experts)


class BaseDescription(BaseModel):
    """A base: its sizes, its modules, and whether vLLM serves adapters of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: BaseSpec
    parameters: PositiveInt
    """The number of parameters."""
    can_checkpoint: bool = True
    """Whether transformers has gradient checkpointing for its architecture."""
    shapes: tuple[TargetModule, ...]
    shape_of: Mapping[str, NonNegativeInt]
    """The modules by their paths as in PEFT's files (without `base_model.model.`), each as an index into `shapes`."""
    refusal: str | None = None
    """Why vLLM serves no adapters of this base on this machine; None if it does."""
    versions: Mapping[str, str] = {}
    """The versions of the libraries that were asked."""
    memory: BaseMemory | None = None
    """What serving the base takes of a device; None if vLLM could not say, and in older descriptions."""
    memory_problem: str | None = None
    """Why vLLM could not say."""

    @classmethod
    def of(cls, modules: Mapping[str, TargetModule], **fields: object) -> Self:
        """Return a description of `modules`, by their paths as in PEFT's files (without `base_model.model.`)."""
        shapes = {module: index for index, module in enumerate(dict.fromkeys(modules.values()))}
        indices = {path: shapes[module] for path, module in modules.items()}
        return cls.model_validate({**fields, "shapes": tuple(shapes), "shape_of": indices})

    @property
    def name(self) -> str:
        """The base's name in the API."""
        return self.spec.name

    @cached_property
    def modules(self) -> Mapping[str, TargetModule]:
        """The modules that PEFT can adapt, by path: those of vLLM and those that it does not apply adapters to."""
        return {path: self.shapes[index] for path, index in self.shape_of.items()}

    @property
    def experts_refusal(self) -> str | None:
        """Why vLLM applies adapters to no expert; None if it does to some, or if the base has none."""
        experts = [module for module in self.modules.values() if module.experts > 1 or module.is_expert]
        refusals = [module.refusal for module in experts if module.refusal]
        return refusals[0] if refusals and len(refusals) == len(experts) else None

    @cached_property
    def served(self) -> Mapping[str, TargetModule]:
        """The modules to which vLLM applies adapters."""
        if self.refusal:
            return {}
        return {path: module for path, module in self.modules.items() if module.refusal is None}

    @cached_property
    def linear(self) -> Mapping[str, TargetModule]:
        """The modules that PEFT means by `all-linear`, as far as vLLM applies adapters to them."""
        return {
            path: module
            for path, module in self.served.items()
            if module.kind == "linear" and not (module.parameter or module.is_head or module.is_expert)
        }
