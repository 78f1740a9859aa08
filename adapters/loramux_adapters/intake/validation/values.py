"""Checks of the weights: all finite, and not so large that they drown the base."""

from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.intake.validation.layout import LoraPair
from loramux_adapters.intake.validation.tensors import DType, TensorInfo

MAX_PRODUCT = 100.0
"""The limit of scaling x max|A| x max|B|. Trained adapters stay below 10."""
MAX_VALUE = 1e4
"""The limit of max|A| and of scaling x max|B|: the largest float16 is 65504."""

_CHUNK_BYTES = 1 << 20

# Without the sign bit, floats order like their bits as integers, with infinity and NaN above all finite values.
_BITS: dict[DType, str] = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}
_MAGNITUDE: dict[DType, int] = {"F32": 0x7FFF_FFFF, "F16": 0x7FFF, "BF16": 0x7FFF}
_INFINITY: dict[DType, int] = {"F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}


def check_values(file: BinaryIO, tensors: Mapping[str, TensorInfo], pairs: Sequence[LoraPair]) -> None:
    """Read every value of the tensors of `pairs` once from `file`.

    Raises:
        InvalidAdapter: a value is NaN, infinite or too large, or all modules are without effect.
    """
    largest = {name: _largest_magnitude(file, name, tensor) for name, tensor in tensors.items()}
    for pair in pairs:
        _check_size(pair.module, largest[pair.a], pair.scaling * largest[pair.b])
    if not any(largest[pair.a] and largest[pair.b] for pair in pairs):
        raise InvalidAdapter("no effect: in every module A or B is all zeros", where=WEIGHTS_FILE)


def _check_size(module: str, a: float, b: float) -> None:
    """Refuse a module with too large a value in A, in the scaled B, or possibly in their product."""
    checks = {
        "max|A|": (a, MAX_VALUE),
        "scaling x max|B|": (b, MAX_VALUE),
        "scaling x max|A| x max|B|": (a * b, MAX_PRODUCT),
    }
    for measure, (found, limit) in checks.items():
        if found > limit:
            raise InvalidAdapter(f"the weights are too large: {measure}", where=module,
                                 expected=f"at most {limit:g}", found=f"{found:.3g}")  # fmt: skip


def _largest_magnitude(file: BinaryIO, name: str, tensor: TensorInfo) -> float:
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
