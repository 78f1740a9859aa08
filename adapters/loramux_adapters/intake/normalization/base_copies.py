"""Weights of the base that tools save next to a LoRA: copies are left out, trained ones are refused by their true name.

PEFT saves the embeddings if they are targets or the vocabulary was resized, and every module in `modules_to_save`.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.normalization.names import TensorNames
from loramux_adapters.intake.normalization.paths import Paths
from loramux_adapters.intake.normalization.tensor_files import StoredTensor
from loramux_adapters.intake.validation.tensors import FLOATS, DType, TensorInfo, read_header

_MAX_BASE_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_ELEMENTS = 1 << 20
_WRAPPERS = frozenset({"modules_to_save", "original_module", "base_layer"})
"""Where PEFT's modules keep a module of the base."""

Values = npt.NDArray[np.generic]


class BaseCopies:
    """Compares full weights in an adapter's files with the base's own files in `folder`.

    Without a folder, or if its files can't be read, no tensor counts as a copy.
    """

    def __init__(self, base: BaseDescription, names: TensorNames, folder: Path | None) -> None:
        self._base, self._names, self._folder = base, names, folder

    def original_of(self, name: str) -> str | None:
        """Return the name of the base's tensor that the file's tensor `name` is a copy or a trained version of.

        Raises:
            InvalidAdapter: the name is short for several.
        """
        parts = name.split(".")
        wrapper = next((at for at, part in enumerate(parts) if part in _WRAPPERS), None)
        if wrapper is not None:
            # The name of the adapter may stand between: modules_to_save.default.weight
            parts = [*parts[:wrapper], parts[-1]]
        if (found := self._paths.find(parts, name)) is not None:
            return found
        module = self._names.modules.find(parts[:-1], name) if parts[-1] == "weight" else None
        return self._embedding if module and module == self._names.head else None

    def is_copy(self, name: str, tensor: StoredTensor, original: str) -> bool:
        """Whether the adapter's `tensor` has the values of the base's tensor `original`, rounded to its own dtype.

        Raises:
            InvalidAdapter: the vocabulary was resized.
            OSError: a file can't be read.
        """
        theirs = self._tensors[original]
        if tensor.info.shape != theirs.info.shape:
            mine, vocabulary = tensor.info.shape, self._base.spec.vocab_size
            if theirs.info.shape == (vocabulary, *mine[1:]) and mine:
                raise InvalidAdapter("the vocabulary was resized, which is not supported", where=name,
                                     expected=f"{theirs.info.shape[0]} tokens", found=tensor.info.shape[0])  # fmt: skip
            return False
        if tensor.info.dtype not in FLOATS or theirs.info.dtype not in FLOATS:
            return False
        pieces = zip(_values(tensor), _values(theirs), strict=True)
        return all(np.array_equal(mine, _cast(other, theirs.info.dtype, tensor.info.dtype)) for mine, other in pieces)

    @cached_property
    def _tensors(self) -> Mapping[str, StoredTensor]:
        """The base's tensors by name."""
        found: dict[str, StoredTensor] = {}
        for path in sorted(self._folder.glob("*.safetensors")) if self._folder else ():
            try:
                with path.open("rb") as file:
                    header = read_header(file, path.stat().st_size, path.name, _MAX_BASE_HEADER_BYTES)
            except (InvalidAdapter, OSError):
                continue
            found |= {name: StoredTensor(path.resolve(), info) for name, info in header.items()}
        return found

    @cached_property
    def _paths(self) -> Paths:
        return Paths(self._tensors.keys())

    @cached_property
    def _embedding(self) -> str | None:
        """The name of the input embedding's tensor, which a tied output embedding shares."""
        vocabulary = self._base.spec.vocab_size
        paths = [
            path
            for path, module in self._base.modules.items()
            if module.kind == "embedding" and vocabulary in (module.inputs, module.outputs)
        ]
        found = {self._paths.find([*path.split("."), "weight"], path) for path in paths}
        return found.pop() if len(found) == 1 else None


def _values(tensor: StoredTensor) -> Iterator[Values]:
    """Yield the bits of a tensor's values in pieces."""
    info = tensor.info
    with tensor.file.open("rb") as file:
        file.seek(info.start)
        for position in range(0, info.elements, _ELEMENTS):
            count = min(_ELEMENTS, info.elements - position)
            yield np.frombuffer(file.read(count * info.item_bytes), f"<u{info.item_bytes}")


def _cast(bits: Values, dtype: DType, wanted: DType) -> Values:
    """Return the bits of values of `dtype`, rounded to `wanted`."""
    if dtype == wanted:
        return bits
    values = _as_float32(bits, dtype)
    if wanted == "F32":
        return values.view(np.uint32)
    if wanted == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    raw = values.view(np.uint32)
    # To the nearest, and of two equally near ones to the even one.
    return ((raw + (0x7FFF + ((raw >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(np.uint16)


def _as_float32(bits: Values, dtype: DType) -> npt.NDArray[np.float32]:
    match dtype:
        case "F16":
            return bits.view(np.float16).astype(np.float32)
        case "BF16":
            return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(np.float32)


def fully_trained(name: str, info: TensorInfo) -> InvalidAdapter:
    """Return the error for a tensor that is neither a matrix of a LoRA nor a copy of the base's weights."""
    return InvalidAdapter(
        "the module is fully trained (modules_to_save), and only LoRA weights are served: merge the adapter into its "
        "base and serve that, or train it again without modules_to_save", where=name, found=info.shape)  # fmt: skip
