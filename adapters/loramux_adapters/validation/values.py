"""The weights themselves: all finite, and together not so large that they drown the base."""

from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.validation.tensors import DType, Tensor

MAX_EFFECT = 100.0
"""The most that scaling x max|A| x max|B| may be. Trained adapters stay below 10."""

_CHUNK_BYTES = 1 << 20

# Without the sign bit, the bits of a float order as its magnitude does, infinity and NaN above all finite ones.
_BITS: dict[DType, str] = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}
_MAGNITUDE: dict[DType, int] = {"F32": 0x7FFF_FFFF, "F16": 0x7FFF, "BF16": 0x7FFF}
_INFINITY: dict[DType, int] = {"F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}


def check_values(file: BinaryIO, tensors: Mapping[str, Tensor], scaling: float) -> None:
    """Read every value of `tensors` from `file` once, in bounded pieces; raises InvalidAdapter.

    `tensors` hold lora_B for each lora_A, as the layout check makes sure.
    """
    largest = {name: _largest_magnitude(file, name, tensor) for name, tensor in tensors.items()}
    for name in tensors:
        module, is_a, rest = name.rpartition(".lora_A.")
        if not is_a:
            continue
        effect = scaling * largest[name] * largest[f"{module}.lora_B.{rest}"]
        if effect > MAX_EFFECT:
            raise InvalidAdapter("the weights are too large: scaling x max|A| x max|B|", where=module,
                                 expected=f"at most {MAX_EFFECT:g}", found=f"{effect:.3g}")  # fmt: skip


def _largest_magnitude(file: BinaryIO, name: str, tensor: Tensor) -> float:
    """Return max|values|; raises InvalidAdapter if one is NaN or infinite."""
    file.seek(tensor.start)
    largest = np.uint32(0)
    for position in range(tensor.start, tensor.stop, _CHUNK_BYTES):
        piece = file.read(min(_CHUNK_BYTES, tensor.stop - position))
        bits: npt.NDArray[np.unsignedinteger] = np.frombuffer(piece, _BITS[tensor.dtype])
        largest = max(largest, np.uint32((bits & _MAGNITUDE[tensor.dtype]).max()))
    if largest >= _INFINITY[tensor.dtype]:
        raise InvalidAdapter("a value is NaN or infinite", where=name)
    return _as_float(largest, tensor.dtype)


def _as_float(bits: np.uint32, dtype: DType) -> float:
    if dtype == "F16":
        return float(bits.astype(np.uint16).view(np.float16))
    return float((bits << np.uint32(16) if dtype == "BF16" else bits).view(np.float32))
