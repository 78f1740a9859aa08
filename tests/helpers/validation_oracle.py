"""Properties that hold for every result of the validator, whatever the files."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.intake.validation import validate
from loramux_adapters.models import Manifest
from tests.helpers.adapter_files import BASE

MAX_RANK = 8
MAX_CPU_SECONDS = 5.0
MAX_MESSAGE = 1000


def accepted(folder: Path, base: BaseDescription = BASE) -> bool:
    """Whether the validator accepts the adapter in `folder`.

    Raises:
        AssertionError: it was slow, its message is unsafe for a log, or other parsers read the files differently.
    """
    started = time.process_time()
    try:
        manifest = validate(folder, base, MAX_RANK)
    except InvalidAdapter as error:
        assert error.message.isprintable()
        assert len(error.message) < MAX_MESSAGE
        return False
    finally:
        assert time.process_time() - started < MAX_CPU_SECONDS
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    _check_weights(folder / WEIGHTS_FILE)
    return True


def _check_weights(path: Path) -> None:
    """The safetensors library must read the same tensors, and all values must be finite."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header.pop("__metadata__", None)
    with safe_open(path, "np") as file:
        read = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        assert {name: (tensor.get_dtype(), tensor.get_shape()) for name, tensor in read.items()} == {
            name: (entry["dtype"], entry["shape"]) for name, entry in header.items()
        }
    for entry in header.values():
        start, stop = entry["data_offsets"]
        assert np.isfinite(_values(raw[end + start : end + stop], entry["dtype"])).all()


def _values(raw: bytes, dtype: str) -> npt.NDArray[Any]:
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << np.uint32(16)).view("<f4")
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype])
