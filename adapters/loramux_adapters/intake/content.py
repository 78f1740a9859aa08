"""The files of an adapter: opening, copying and hashing them."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.models import FileInfo

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
"""The files that every version has."""
TEMPLATE_FILE = "chat_template.jinja"
"""A version has this file if its adapter has a chat template of its own."""
VERSION_FILES = (*ADAPTER_FILES, TEMPLATE_FILE)
"""All files that a version can have."""
INDEX_FILE = "adapter_model.safetensors.index.json"
"""The list of the files of weights that are saved in several."""
MLX_WEIGHTS_FILE = "adapters.safetensors"
_WEIGHTS_FILES = (WEIGHTS_FILE, INDEX_FILE, MLX_WEIGHTS_FILE)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_COPY_BYTES = 1 << 20

OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Error numbers that are not the file's fault: it may be opened successfully later."""


def open_regular(path: str | Path, *, folder: int | None = None) -> BufferedReader:
    """Open a regular file for reading, relative to the folder descriptor `folder` if given.

    Symbolic links are not followed; pipes and devices are refused, because reading them may block forever.

    Raises:
        InvalidAdapter: the file does not exist, is not a regular file or can't be opened.
        OSError: the system has run out of resources.
    """
    name = Path(path).name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise
        reason = "is a symbolic link" if error.errno == errno.ELOOP else f"can't be opened: {error.strerror}"
        raise InvalidAdapter(reason, where=name) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidAdapter("is not a regular file", where=name)
    return os.fdopen(descriptor, "rb")


def resolve_inside(path: Path) -> Path:
    """Return the file that `path` is or links to: it must be in the same folder, or in the same repository of the Hub's
    cache, whose snapshots consist of links.

    Raises:
        InvalidAdapter: it is a link to something else.
    """
    folder = path.parent.resolve()
    root = folder.parent.parent if folder.parent.name == "snapshots" else folder
    found = path.resolve()
    if not found.is_relative_to(root):
        raise InvalidAdapter("is a symbolic link to something outside its folder", where=path.name)
    return found


def copy_bounded(source: BinaryIO, target: Path, max_bytes: int) -> None:
    """Copy all of `source` to the new file `target`.

    Raises:
        InvalidAdapter: `source` has more than `max_bytes` bytes.
        OSError: the disk failed.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    with target.open("xb") as copy:
        # Count while copying as well, because the file may grow.
        while size <= max_bytes and (piece := source.read(_COPY_BYTES)):
            copy.write(piece)
            size = max(size, copy.tell())
    if size > max_bytes:
        raise file_too_large(target.name, max_bytes, size)


def file_too_large(name: str, max_bytes: int, size: int) -> InvalidAdapter:
    """Return the error for a file that is larger than any adapter of this base."""
    return InvalidAdapter("the file is too large", where=name, expected=f"at most {max_bytes} bytes", found=size)


def check_listing(names: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Check that the file names of a folder include a config and weights; other files are ignored.

    Args:
        names: the names of the files.
        folders: the names of those folders inside it that contain an adapter.

    Raises:
        InvalidAdapter: a file is missing, or the weights are a pickle.
    """
    present = set(names)
    has_config, has_weights = CONFIG_FILE in present, not present.isdisjoint(_WEIGHTS_FILES)
    if has_config and has_weights:
        return
    if has_config and (pickles := pickled_weights(present)):
        raise InvalidAdapter(
            "can run code when it is read; convert the adapter with `loramux adapter convert FOLDER NEW_FOLDER`, and "
            "add NEW_FOLDER", where=pickles[0])  # fmt: skip
    below = sorted(folders, key=lambda name: (len(name), name))
    hint = f"; add one of the adapters in the folders inside: {_listed(below)}" if below else ""
    raise InvalidAdapter(f"the file is missing{hint}", where=WEIGHTS_FILE if has_config else CONFIG_FILE)


def pickled_weights(names: Iterable[str]) -> list[str]:
    """Return those of the file names that are of pickled weights, the likeliest first.

    The state of a training, such as training_args.bin and optimizer.pt, is not.
    """
    found = [name for name in names if name.endswith(_PICKLE_SUFFIXES) and ("adapter" in name or "model" in name)]
    return sorted(found, key=lambda name: (not name.startswith("adapter_model."), name))


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def hash_files(folder: Path, names: Iterable[str] | None = None) -> dict[str, FileInfo]:
    """Return size and SHA-256 of the files `names` of the version in `folder`, by name; by default of all it has.

    Raises:
        InvalidAdapter: a file does not exist or is not a regular file.
        OSError: a file can't be read.
    """
    if names is None:
        names = [name for name in VERSION_FILES if name in ADAPTER_FILES or os.path.lexists(folder / name)]
    files = {}
    for name in names:
        with open_regular(folder / name) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = FileInfo(bytes=file.tell(), sha256=sha256)
    return files


def content_digest(files: Mapping[str, FileInfo]) -> str:
    """Return the SHA-256 of a version: that of the output of `sha256sum` for its files, sorted by name.

    To verify it: `sha256sum adapter_config.json adapter_model.safetensors | sha256sum`.
    """
    lines = (f"{files[name].sha256}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
