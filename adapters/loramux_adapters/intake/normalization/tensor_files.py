"""Reading the weights of an adapter in whichever files they are, and writing them into one."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import INDEX_FILE, MLX_WEIGHTS_FILE, WEIGHTS_FILE, open_regular
from loramux_adapters.intake.validation.limits import MAX_HEADER_BYTES
from loramux_adapters.intake.validation.tensors import FLOATS, TensorInfo, read_header
from loramux_adapters.intake.weight_index import parse_index

_COPY_BYTES = 1 << 20
_BLOCK_BYTES = 8 << 20
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file; with `is_transposed`, the adapter's matrix is the transposed one."""

    file: Path
    info: TensorInfo
    is_transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the adapter's matrix."""
        return self.info.shape[::-1] if self.is_transposed else self.info.shape


def weights_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the files of an adapter's weights, in the form that has precedence if there are several, and their index.

    Raises:
        InvalidAdapter: there are none, or the index is invalid.
    """
    if (folder / WEIGHTS_FILE).exists():
        return [folder / WEIGHTS_FILE], None
    if (folder / INDEX_FILE).exists():
        index = parse_index((folder / INDEX_FILE).read_bytes())
        return [folder / name for name in sorted(set(index.values()))], index
    if (folder / MLX_WEIGHTS_FILE).exists():
        return [folder / MLX_WEIGHTS_FILE], None
    raise InvalidAdapter("the file is missing", where=WEIGHTS_FILE)


def read_stored(files: list[Path], max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, StoredTensor]:
    """Return the tensors of all `files` by name; `max_header_bytes` is the limit of all headers together.

    Raises:
        InvalidAdapter: a file is malformed, or a tensor is in two of them.
        OSError: a file can't be read.
    """
    found: dict[str, StoredTensor] = {}
    for path in files:
        with open_regular(path) as file:
            tensors = read_header(file, os.fstat(file.fileno()).st_size, path.name, max_header_bytes)
            max_header_bytes -= file.tell()  # it is where the header ends
        for name, info in tensors.items():
            if name in found:
                raise InvalidAdapter(f"the tensor is in {found[name].file.name} and in {path.name}", where=name)
            found[name] = StoredTensor(path, info)
    return found


def check_index(index: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> None:
    """Check that the files have exactly the tensors that the index names, each in its file.

    Raises:
        InvalidAdapter: they have not.
    """
    for name in sorted(index.keys() | tensors.keys()):
        found = tensors[name].file.name if name in tensors else "no file"
        if index.get(name) != found:
            raise InvalidAdapter("the tensor is not where the index says", where=name,
                                 expected=index.get(name, "no file"), found=found)  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Write `tensors` by name to the new file `path`, byte for byte as the safetensors library writes them for PEFT.

    So the content of an adapter has one digest, whatever its files looked like. Memory use stays within tens of MiB.

    Raises:
        OSError: the disk failed.
    """
    order = sorted(tensors, key=lambda name: (-_precedence(tensors[name].info), name))
    with path.open("xb") as target:
        target.write(_header({name: tensors[name] for name in order}))
        for name in order:
            for piece in _data(tensors[name]):
                target.write(piece)


def _precedence(info: TensorInfo) -> int:
    return FLOATS.index(info.dtype) if info.dtype in FLOATS else len(FLOATS)


def _header(tensors: Mapping[str, StoredTensor]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.info.bytes
        header[name] = {"dtype": tensor.info.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    return len(raw).to_bytes(8, "little") + raw


def _data(tensor: StoredTensor) -> Iterator[bytes]:
    with open_regular(tensor.file) as file:
        yield from _transposed(file, tensor.info) if tensor.is_transposed else _pieces(file, tensor.info)


def _pieces(file: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    file.seek(info.start)
    for position in range(info.start, info.stop, _COPY_BYTES):
        yield file.read(min(_COPY_BYTES, info.stop - position))


def _transposed(file: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    rows, columns = info.shape
    bits: npt.NDArray[np.unsignedinteger] = np.memmap(
        file, f"<u{info.item_bytes}", "r", offset=info.start, shape=(rows, columns)
    )
    step = max(1, _BLOCK_BYTES // (rows * info.item_bytes))
    for column in range(0, columns, step):
        yield bits[:, column : column + step].T.tobytes()
