"""The header of a safetensors file: the tensors that it declares, and that the file holds exactly these.

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
# Larger numbers than any file's are refused where they stand: Python does not even print those of thousands of digits.
_Size = Annotated[int, Field(gt=0, le=1 << 32)]
_Offset = Annotated[int, Field(ge=0, le=1 << 48)]
_ITEM_BYTES: dict[DType, int] = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A declared tensor; its bytes are `start` to `stop` of the file."""

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
        """The number of bytes that dtype and shape ask for."""
        return self.elements * _ITEM_BYTES[self.dtype]


class _Entry(BaseModel):
    """A tensor's entry in the header; LoRA's are all matrices."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: DType
    shape: Annotated[list[_Size], Field(min_length=2, max_length=2)]
    data_offsets: Annotated[list[_Offset], Field(min_length=2, max_length=2)]


def read_tensors(file: BinaryIO, size: int) -> dict[str, Tensor]:
    """Return the tensors that `file`, of `size` bytes, holds, by name in the file's order; raises InvalidAdapter."""
    header_size = int.from_bytes(file.read(HEADER_SIZE_BYTES), "little")
    data_start = HEADER_SIZE_BYTES + header_size
    if header_size > MAX_HEADER_BYTES or data_start > size:
        most = max(0, min(MAX_HEADER_BYTES, size - HEADER_SIZE_BYTES))
        raise InvalidAdapter("the header is truncated or too large", where=WEIGHTS_FILE,
                             expected=f"at most {most} bytes", found=header_size)  # fmt: skip
    header = parse_object(file.read(header_size), WEIGHTS_FILE)
    _check_metadata(header.pop("__metadata__", {}))
    tensors = {name: _parse_entry(name, entry, data_start) for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1].start))
    _check_extents(tensors, data_start, size)
    return tensors


def _parse_entry(name: str, entry: Any, data_start: int) -> Tensor:
    try:
        parsed = _Entry.model_validate(entry)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = "".join(f"{part}: " for part in problem["loc"])
        raise InvalidAdapter(f"{key}{problem['msg']}", where=name, found=problem["input"]) from error
    start, stop = (data_start + offset for offset in parsed.data_offsets)
    return Tensor(parsed.dtype, tuple(parsed.shape), start, stop)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidAdapter("__metadata__ is not a map of strings", where=WEIGHTS_FILE)


def _check_extents(tensors: dict[str, Tensor], data_start: int, size: int) -> None:
    """Refuse gaps and overlaps, in which bytes could hide or be read twice, and a file of another size."""
    end = data_start
    for name, tensor in tensors.items():
        if tensor.start != end or tensor.stop - tensor.start != tensor.bytes:
            raise InvalidAdapter("its bytes are not where and as many as declared", where=name,
                                 expected=f"bytes {end} to {end + tensor.bytes}",
                                 found=f"bytes {tensor.start} to {tensor.stop}")  # fmt: skip
        end = tensor.stop
    if end != size:
        raise InvalidAdapter("the file is not as long as its header says", where=WEIGHTS_FILE,
                             expected=f"{end} bytes", found=f"{size} bytes")  # fmt: skip
