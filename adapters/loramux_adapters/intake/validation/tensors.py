"""The header of a safetensors file, and the check that the file contains exactly the tensors it declares.

Format: the header's size in 8 little-endian bytes, that much JSON, then the tensors' bytes end to end.
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, BinaryIO, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.intake.validation.limits import HEADER_SIZE_BYTES, MAX_HEADER_BYTES
from loramux_adapters.intake.validation.strict_json import parse_object

DType = Literal[
    "BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0",
    "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "I64", "U64", "F64", "C64",
]  # fmt: skip
"""The format's types of whole bytes."""
FLOATS: tuple[DType, ...] = ("F16", "BF16", "F32")
"""The types of LoRA weights that are accepted, in the order in which the safetensors library sorts tensors."""
# Numbers too large for any file are refused here: Python does not even print integers of thousands of digits.
_Size = Annotated[int, Field(ge=0, le=1 << 32)]
_Offset = Annotated[int, Field(ge=0, le=1 << 48)]
_ITEM_BYTES: dict[DType, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_ZERO_3 = (
    "the tensor is empty, as DeepSpeed ZeRO-3 saves weights that were not gathered: save the adapter again with "
    "stage3_gather_16bit_weights_on_model_save, or consolidate it with zero_to_fp32.py"
)


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
    def item_bytes(self) -> int:
        """The size of a value in bytes."""
        return _ITEM_BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """The size in bytes according to dtype and shape."""
        return self.elements * self.item_bytes


class _HeaderEntry(BaseModel):
    """A tensor's entry in the header."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: DType
    shape: Annotated[list[_Size], Field(max_length=8)]
    data_offsets: Annotated[list[_Offset], Field(min_length=2, max_length=2)]


def read_tensors(file: BinaryIO, size: int, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, TensorInfo]:
    """Return the tensors of `file`, which has `size` bytes, by name in the order of their data.

    Raises:
        InvalidAdapter: the header is malformed, does not match the file, or has a tensor that LoRA does not have.
    """
    tensors = read_header(file, size, max_bytes=max_header_bytes)
    for name, tensor in tensors.items():
        check_not_empty(name, tensor)
        if tensor.dtype not in FLOATS:
            raise InvalidAdapter("the dtype is not supported: LoRA weights can't be quantised", where=name,
                                 expected=", ".join(FLOATS), found=tensor.dtype)  # fmt: skip
        if len(tensor.shape) != 2:
            raise InvalidAdapter("the shape is not that of a matrix", where=name, found=tensor.shape)
    return tensors


def check_not_empty(name: str, tensor: TensorInfo) -> None:
    """Refuse a tensor without values.

    Raises:
        InvalidAdapter: it has none.
    """
    if 0 in tensor.shape:
        raise InvalidAdapter(_ZERO_3, where=name, found=tensor.shape)


def read_header(
    file: BinaryIO, size: int, where: str = WEIGHTS_FILE, max_bytes: int = MAX_HEADER_BYTES
) -> dict[str, TensorInfo]:
    """Return the tensors of any safetensors file, which has `size` bytes, by name in the order of their data.

    Args:
        file: the file, at its beginning.
        size: its size in bytes.
        where: its name, for errors.
        max_bytes: the limit of the header's size.

    Raises:
        InvalidAdapter: the header is malformed, or does not match the file.
    """
    header_size = int.from_bytes(file.read(HEADER_SIZE_BYTES), "little")
    data_start = HEADER_SIZE_BYTES + header_size
    if header_size > max_bytes or data_start > size:
        limit = max(0, min(max_bytes, size - HEADER_SIZE_BYTES))
        raise InvalidAdapter("the header is truncated or too large", where=where,
                             expected=f"at most {limit} bytes", found=header_size)  # fmt: skip
    header = parse_object(file.read(header_size), where)
    _check_metadata(header.pop("__metadata__", {}), where)
    tensors = {name: _parse_entry(name, entry, data_start) for name, entry in header.items()}
    # An empty tensor has the offset of the next one.
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_extents(tensors, data_start, size, where)
    return tensors


def _parse_entry(name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        parsed = _HeaderEntry.model_validate(entry)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = "".join(f"{part}: " for part in problem["loc"])
        if problem["loc"] == ("dtype",):
            problem["msg"] = f"expected one of {', '.join(get_args(DType))}"
        raise InvalidAdapter(f"{key}{problem['msg']}", where=name, found=problem["input"]) from error
    start, stop = (data_start + offset for offset in parsed.data_offsets)
    return TensorInfo(parsed.dtype, tuple(parsed.shape), start, stop)


def _check_metadata(metadata: object, where: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidAdapter("__metadata__ is not an object of strings", where=where)


def _check_extents(tensors: dict[str, TensorInfo], data_start: int, size: int, where: str) -> None:
    """Refuse gaps and overlaps between tensors, and a file of another size than declared."""
    end = data_start
    for name, tensor in tensors.items():
        if tensor.start != end or tensor.stop - tensor.start != tensor.bytes:
            raise InvalidAdapter("its data offsets do not match its shape and the previous tensor", where=name,
                                 expected=f"bytes {end} to {end + tensor.bytes}",
                                 found=f"bytes {tensor.start} to {tensor.stop}")  # fmt: skip
        end = tensor.stop
    if end != size:
        raise InvalidAdapter("the file's size does not match its header", where=where,
                             expected=f"{end} bytes", found=f"{size} bytes")  # fmt: skip
