"""Converts an adapter whose weights PyTorch pickled (`.bin`, `.pt`) to safetensors."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from loramux_adapters.errors import InvalidAdapter, printable
from loramux_adapters.intake.chat.companions import COMPANION_LIMITS
from loramux_adapters.intake.content import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    copy_bounded,
    open_regular,
    pickled_weights,
    resolve_inside,
)
from loramux_adapters.intake.normalization.tensor_files import read_stored
from loramux_adapters.intake.validation.limits import MAX_CONFIG_BYTES

_COMMAND = (sys.executable, "-I", "-m", "loramux_adapters.conversion.unpickling_process")
# One thread: no others can be started once the process has given up what it does not need.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MAX_WALL_SECONDS = 900
_MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit


def convert(source: Path, target: Path) -> int:
    """Write the adapter in the folder of `source` to the new folder `target`, and return the number of its tensors.

    `source` is the folder, or the file with the weights in it. The target has the same config, and the tensors under
    the same names. It is complete or not there.

    Raises:
        InvalidAdapter: the files are no pickled adapter, or contain more than tensors.
        FileExistsError: `target` exists.
        OSError: a file can't be read or written.
    """
    weights = source if source.is_file() else _pickle_in(source)
    if target.exists():
        raise FileExistsError(f"{target} exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        for name, limit in {CONFIG_FILE: MAX_CONFIG_BYTES, **COMPANION_LIMITS}.items():
            _copy(weights.parent / name, folder / name, limit)
        count = _convert_weights(weights, folder / WEIGHTS_FILE)
        folder.rename(target)
    return count


def _pickle_in(folder: Path) -> Path:
    pickles = pickled_weights(path.name for path in folder.glob("*") if path.is_file())
    if not pickles:
        raise InvalidAdapter("the file is missing", where="adapter_model.bin", expected="a .bin or .pt file")
    if not pickles[0].startswith("adapter_model.") and len(pickles) > 1:
        raise InvalidAdapter("there are several files of weights: name one of them as the source", where=pickles[0])
    return folder / pickles[0]


def _copy(source: Path, target: Path, max_bytes: int) -> None:
    """Copy the file `source`; all but the config are optional."""
    if not os.path.lexists(source):
        if target.name == CONFIG_FILE:
            raise InvalidAdapter("the file is missing", where=CONFIG_FILE)
        return
    with open_regular(resolve_inside(source)) as file:
        copy_bounded(file, target, max_bytes)


def _convert_weights(source: Path, target: Path) -> int:
    with open_regular(resolve_inside(source)) as pickled, target.open("xb") as converted:
        try:
            done = subprocess.run(
                _COMMAND,
                stdin=pickled,
                stdout=converted,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                cwd="/",
                timeout=MAX_WALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidAdapter("reading it takes too long", where=source.name) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines and done.returncode > 0 else "reading it takes too much time or memory"
        raise InvalidAdapter(f"can't be converted: {printable(reason)}", where=source.name)
    return len(read_stored([target], _MAX_HEADER_BYTES))
