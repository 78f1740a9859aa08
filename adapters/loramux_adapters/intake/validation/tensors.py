"""The header of a safetensors file, and the check that the file contains exactly the tensors it declares.

Format: the header's size in 8 little-endian bytes, that much JSON, then the tensors' bytes end to end.
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.intake.validation.limits import HEADER_SIZE_BYTES, MAX_HEADER_BYTES
from loramux_adapters.intake.validation.strict_json import parse_object

DType = Literal["F32", "F16", "BF16"]
# Numbers too large for any file are refused here: Python does not even print integers of thousands of digits.
_Size = Annotated[int, Field(gt=0, le=1 << 32)]
_Offset = Annotated[int, Field(ge=0, le=1 << 48)]
_ITEM_BYTES: dict[DType, int] = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A declared tensor; its data are the bytes `start` to `stop` of the file."""

    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        """The number of values."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size in bytes according to dtype and shape."""
        return self.elements * _ITEM_BYTES[self.dtype]


class _HeaderEntry(BaseModel):
    """A tensor's entry in the header; all LoRA tensors are matrices."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: DType
    shape: Annotated[list[_Size], Field(min_length=2, max_length=2)]
    data_offsets: Annotated[list[_Offset], Field(min_length=2, max_length=2)]


def read_tensors(file: BinaryIO, size: int) -> dict[str, TensorInfo]:
    """Return the tensors of `file`, which has `size` bytes, by name in the order of their data.

    Raises:
        InvalidAdapter: the header is malformed, or does not match the file.
    """
    header_size = int.from_bytes(file.read(HEADER_SIZE_BYTES), "little")
    data_start = HEADER_SIZE_BYTES + header_size
    if header_size > MAX_HEADER_BYTES or data_start > size:
        limit = max(0, min(MAX_HEADER_BYTES, size - HEADER_SIZE_BYTES))
        raise InvalidAdapter("the header is truncated or too large", where=WEIGHTS_FILE,
                             expected=f"at most {limit} bytes", found=header_size)  # fmt: skip
    header = parse_object(file.read(header_size), WEIGHTS_FILE)
    _check_metadata(header.pop("__metadata__", {}))
    tensors = {name: _parse_entry(name, entry, data_start) for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1].start))
    _check_extents(tensors, data_start, size)
    return tensors


def _parse_entry(name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        parsed = _HeaderEntry.model_validate(entry)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = "".join(f"{part}: " for part in problem["loc"])
        raise InvalidAdapter(f"{key}{problem['msg']}", where=name, found=problem["input"]) from error
    start, stop = (data_start + offset for offset in parsed.data_offsets)
    return TensorInfo(parsed.dtype, tuple(parsed.shape), start, stop)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidAdapter("__metadata__ is not an object of strings", where=WEIGHTS_FILE)


def _check_extents(tensors: dict[str, TensorInfo], data_start: int, size: int) -> None:
    """Refuse gaps and overlaps between tensors, and a file of another size than declared."""
    end = data_start
    for name, tensor in tensors.items():
        if tensor.start != end or tensor.stop - tensor.start != tensor.bytes:
            raise InvalidAdapter("its data offsets do not match its shape and the previous tensor", where=name,
                                 expected=f"bytes {end} to {end + tensor.bytes}",
                                 found=f"bytes {tensor.start} to {tensor.stop}")  # fmt: skip
        end = tensor.stop
    if end != size:
        raise InvalidAdapter("the file's size does not match its header", where=WEIGHTS_FILE,
                             expected=f"{end} bytes", found=f"{size} bytes")  # fmt: skip
