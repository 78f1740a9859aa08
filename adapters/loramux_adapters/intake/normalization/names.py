"""Names of LoRA tensors as tools write them, resolved to the names that PEFT gives them on this base."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.normalization.paths import Paths

PREFIX = "base_model.model."
_PEFT_PARTS = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"})
_MLX_PARTS = {"lora_a": "A", "lora_b": "B"}
_TINKER_HEAD = "unembed_tokens"


class TensorName(NamedTuple):
    """A matrix of a LoRA: A or B of the module at a path of the base."""

    path: str
    matrix: str
    trained_as: str
    """The module's path in the model that the adapter was trained on."""
    is_mlx: bool
    """MLX saves the transposed matrices."""


class TensorNames:
    """Resolves the names of an adapter's tensors on `base`."""

    def __init__(self, base: BaseDescription) -> None:
        self._base = base
        self.modules = Paths(base.modules, preferred=base.served)

    def resolve(self, name: str) -> TensorName | None:
        """Return what `name` means; None if it is no matrix of a LoRA on one of the base's modules.

        Raises:
            InvalidAdapter: it is short for several modules, or belongs to torchtune's own format.
        """
        parts = name.split(".")
        position = next((at for at in reversed(range(len(parts))) if _is_lora(parts[at])), None)
        if position is None or not position:
            return None
        lora, tail = parts[position], [part for part in parts[position + 1 :] if not part.startswith("_")]
        if lora in _MLX_PARTS and tail:
            raise InvalidAdapter(
                "the names are those of torchtune's own checkpoints, whose rows have another order; use the files "
                "adapter_model and adapter_config.json that its Hugging Face checkpointer writes",
                where=name,
            )
        is_embedding = lora.startswith("lora_embedding")
        adapter = tail[:-1] if tail[-1:] == ["weight"] else tail if is_embedding else None
        # At most the name of the adapter stands between: PEFT's own files do not have it.
        if lora in _PEFT_PARTS and (adapter is None or len(adapter) > 1):
            return None
        path = self._module(parts[:position], name)
        if path is None or (lora in _PEFT_PARTS and is_embedding != self._is_embedding(path)):
            return None
        trained_as = path if parts[position - 1] == _TINKER_HEAD else _trained_path(parts[:position])
        return TensorName(path, _MLX_PARTS.get(lora, lora[-1]), trained_as, lora in _MLX_PARTS)

    def peft_name(self, tensor: TensorName) -> str:
        """Return the name of a tensor in PEFT's files."""
        if self._is_embedding(tensor.path):
            return f"{PREFIX}{tensor.path}.lora_embedding_{tensor.matrix}"
        return f"{PREFIX}{tensor.path}.lora_{tensor.matrix}.weight"

    def _is_embedding(self, path: str) -> bool:
        return self._base.modules[path].kind == "embedding"

    def _module(self, parts: list[str], name: str) -> str | None:
        if (path := ".".join(parts).removeprefix(PREFIX)) in self._base.modules and name.startswith(PREFIX):
            return path
        if parts[-1] == _TINKER_HEAD and self.head is not None:
            return self.head
        return self.modules.find(parts, name)

    @property
    def head(self) -> str | None:
        """The path of the base's output embedding, None if PEFT can't adapt it."""
        return next((path for path, module in self._base.modules.items() if module.is_head), None)


def renamed(names: Iterable[str], resolver: TensorNames) -> dict[str, TensorName | None]:
    """Resolve all names of a file.

    Raises:
        InvalidAdapter: a name is ambiguous, or two names are the same tensor of the base's module.
    """
    found = {name: resolver.resolve(name) for name in names}
    first: dict[tuple[str, str], str] = {}
    for name, tensor in found.items():
        if tensor and (other := first.setdefault(tensor[:2], name)) != name:
            raise InvalidAdapter(
                f"the file has this matrix twice: also as {other}", where=name, expected="weights of one adapter only"
            )
    return found


def _trained_path(parts: Sequence[str]) -> str:
    """Return a module's path without the prefixes of PEFT and PyTorch's wrappers."""
    path = ".".join(part for part in parts if not part.startswith("_")).removeprefix("module.")
    return path.rpartition(PREFIX)[2]


def _is_lora(part: str) -> bool:
    return part in _PEFT_PARTS or part in _MLX_PARTS
