"""Converts pickled weights to safetensors: reads them from standard input, and writes to standard output.

A program of its own, because a pickle can contain a program: PyTorch's weights-only mode refuses anything but tensors,
and if that ever fails, this process has no environment and can open no file or connection.
"""

import io
import os
import resource
import sys
from typing import BinaryIO

import safetensors.torch
import torch

MAX_CPU_SECONDS = 600
_MEMORY_FACTOR = 6
_SPARE_BYTES = 1 << 30


def restrict(size: int) -> None:
    """Give up all that converting a file of `size` bytes does not need."""
    _limit(resource.RLIMIT_CPU, MAX_CPU_SECONDS)
    _limit(resource.RLIMIT_AS, _address_space() + _MEMORY_FACTOR * size + _SPARE_BYTES)
    _limit(resource.RLIMIT_FSIZE, _MEMORY_FACTOR * size + _SPARE_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    # What is open stays open; any other file and connection is refused, and processes to all users but root.
    _limit(resource.RLIMIT_NOFILE, 0)
    _limit(resource.RLIMIT_NPROC, 0)


def convert(file: BinaryIO, max_bytes: int) -> bytes:
    """Return the tensors in `file` in the safetensors format.

    Raises:
        ValueError: it contains something else, or tensors of more than `max_bytes` together.
    """
    converted: bytes = safetensors.torch.save(read_weights(file, max_bytes), {"format": "pt"})
    return converted


def read_weights(file: BinaryIO, max_bytes: int) -> dict[str, torch.Tensor]:
    """Return the tensors in `file` by name, each with its own memory.

    Raises:
        ValueError: it contains something else, or tensors of more than `max_bytes` together.
    """
    content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not content:
        raise ValueError("the file does not contain tensors by name")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise ValueError(f"the file does not only contain tensors by name, but also {name!r}"[:200])
    # A view can be much larger than its memory.
    if sum(tensor.numel() * tensor.element_size() for tensor in content.values()) > max_bytes:
        raise ValueError("the tensors are larger than their file")
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in content.items()}


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    """The address space of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - Path would import more
        return int(file.read().split()[0]) * resource.getpagesize()


def _import_everything() -> None:
    """Make PyTorch import what it needs, because no file can be opened afterwards."""
    for is_zip in (True, False):
        file = io.BytesIO()
        torch.save({"x": torch.ones(1)}, file, _use_new_zipfile_serialization=is_zip)
        file.seek(0)
        convert(file, 4)


def _main() -> int:
    torch.set_num_threads(1)
    size = os.fstat(sys.stdin.fileno()).st_size
    _import_everything()
    restrict(size)
    try:
        sys.stdout.buffer.write(convert(sys.stdin.buffer, _MEMORY_FACTOR * size))
        sys.stdout.buffer.flush()
    except Exception as error:  # noqa: BLE001 - PyTorch raises errors of many classes
        sys.stderr.write(explain(error))
    else:
        return 0
    return 1


def explain(error: Exception) -> str:
    """Return why a file can't be converted, in a few words."""
    message = str(error).lower()
    if isinstance(error, MemoryError) or "allocate memory" in message:
        return "reading it takes too much memory"
    if isinstance(error, ValueError):
        return str(error)
    if "weights only" in message or "weights_only" in message:
        return "it contains more than tensors"
    return "it is not a file of PyTorch, or is damaged"


if __name__ == "__main__":
    sys.exit(_main())
