"""What a training can go on from: states on disk, each complete or absent, and of this training alone."""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loramux_adapters.finetuning.errors import AlreadyTraining
from loramux_adapters.finetuning.recipes.recipe import Recipe

_log = logging.getLogger(__name__)
_STEP = re.compile(r"step-(\d{1,9})")
_META = "loramux.json"
_SAMPLE = 1 << 20  # bytes of each file of weights that tell two bases of the same shape apart


@dataclass(frozen=True)
class SavedState:
    """A state: the folder that transformers made, the step after which it was made, and what it took so far."""

    folder: Path
    step: int
    tokens: int
    seconds: float


class States:
    """The states of one training in a folder of its own; only the newest is kept.

    `fingerprint` names the training by its base, data and recipe: what another one left is never taken up.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self._fingerprint = folder, fingerprint
        self.unfinished = folder / "unfinished"
        """Where a state is written before it is published."""

    def newest(self) -> SavedState | None:
        """Return what to go on from, and remove all else."""
        self.folder.mkdir(parents=True, exist_ok=True)
        states = [state for path in self.folder.iterdir() if (state := self._read(path))]
        newest = max(states, key=lambda state: state.step, default=None)
        for path in self.folder.iterdir():
            if newest is None or path != newest.folder:
                if newest is None and _STEP.fullmatch(path.name):
                    _log.warning("%s is of another base, data or recipe, or not whole: starting anew", path.name)
                _remove(path)
        return newest

    def publish(self, written: Path, step: int, tokens: int, seconds: float) -> None:
        """Make the state in the folder `written` the newest: on disk as a whole, or not at all."""
        target = self.folder / f"step-{step}"
        if target.exists():  # it was whole when it was taken up, so it is the same
            _remove(written)
            return
        meta = {"fingerprint": self._fingerprint, "step": step, "tokens": tokens, "seconds": seconds}
        (written / _META).write_text(json.dumps(meta))
        for path in [*written.iterdir(), written]:
            sync(path)
        written.rename(target)
        sync(self.folder)
        for path in self.folder.iterdir():
            if path not in {target, self.unfinished}:
                _remove(path)

    def _read(self, path: Path) -> SavedState | None:
        found = _STEP.fullmatch(path.name)
        try:
            meta = json.loads((path / _META).read_text())
            if found and meta["fingerprint"] == self._fingerprint and meta["step"] == int(found[1]):
                return SavedState(path, int(meta["step"]), int(meta["tokens"]), float(meta["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not of this training, or not whole
        return None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other trainers off the states in `folder`, however this one ends; raises AlreadyTraining."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise AlreadyTraining("another trainer works on this training: wait until it has ended, or stop it") from error


def fingerprint(base: Path, data: Path, validation: Path | None, recipe: Recipe) -> str:
    """Name a training by what decides its result; raises OSError."""
    digest = hashlib.sha256(recipe.model_dump_json().encode())
    for path in sorted([*base.glob("*.json"), *base.glob("*.jinja")]):
        digest.update(f"{path.name} {path.stat().st_size}".encode() + path.read_bytes())
    for path in sorted(base.glob("*.safetensors")):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SAMPLE))
            digest.update(f"{path.name} {size}".encode() + file.read())
    for learned in (data, validation):
        if learned is not None:
            with learned.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file or a folder on disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
