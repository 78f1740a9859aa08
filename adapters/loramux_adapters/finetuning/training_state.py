"""Saved states to resume a training run from: on disk, each complete or absent, and only of the same run."""

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

from loramux_adapters.file_lock import FileLock
from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.errors import AlreadyTraining
from loramux_adapters.finetuning.recipes.recipe import Recipe
from loramux_adapters.fsync import fsync_path
from loramux_adapters.intake.content import ADAPTER_FILES

_log = logging.getLogger(__name__)
_STEP = re.compile(r"step-(\d{1,9})")
_METADATA_FILE = "loramux.json"
_SAMPLE_BYTES = 1 << 20  # the end of each weights file, which distinguishes two bases of the same shape


@dataclass(frozen=True)
class SavedState:
    """A state: the folder that transformers wrote, the step it follows, and the tokens and seconds trained so far."""

    folder: Path
    step: int
    tokens: int
    seconds: float


class TrainingStateStore:
    """The states of one training run, in a folder of its own; only the newest is kept.

    `fingerprint` identifies the run by its base, data and recipe: states of another run are never used.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self._fingerprint = folder, fingerprint
        self.unfinished = folder / "unfinished"
        """Folder in which a state is written before it is published."""

    def load_newest(self) -> SavedState | None:
        """Return the state to resume from, and remove everything else in the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        states = [state for path in self.folder.iterdir() if (state := self._read(path))]
        newest = max(states, key=lambda state: state.step, default=None)
        for path in self.folder.iterdir():
            if newest is None or path != newest.folder:
                if newest is None and _STEP.fullmatch(path.name):
                    _log.warning(
                        "%s is of another base, data or recipe, or incomplete: training starts from the beginning",
                        path.name,
                    )
                _remove(path)
        return newest

    def publish(self, written: Path, step: int, tokens: int, seconds: float) -> None:
        """Make the state in the folder `written` the newest one, atomically."""
        target = self.folder / f"step-{step}"
        if target.exists():  # complete, because training resumed from it, and the same
            _remove(written)
            return
        metadata = {"fingerprint": self._fingerprint, "step": step, "tokens": tokens, "seconds": seconds}
        (written / _METADATA_FILE).write_text(json.dumps(metadata))
        for path in [*written.iterdir(), written]:
            fsync_path(path)
        written.rename(target)
        fsync_path(self.folder)
        for path in self.folder.iterdir():
            if path not in {target, self.unfinished}:
                _remove(path)

    def _read(self, path: Path) -> SavedState | None:
        found = _STEP.fullmatch(path.name)
        try:
            metadata = json.loads((path / _METADATA_FILE).read_text())
            if found and metadata["fingerprint"] == self._fingerprint and metadata["step"] == int(found[1]):
                return SavedState(path, int(metadata["step"]), int(metadata["tokens"]), float(metadata["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # of another run, or incomplete
        return None


@contextmanager
def lock_states(folder: Path) -> Iterator[None]:
    """Lock the states in `folder` against other trainers while the context lasts; a kill releases the lock.

    Raises:
        AlreadyTraining: another trainer holds the lock.
        OSError: the folder can't be created or opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder, folder=True)
    if not lock.acquire(blocking=False):
        raise AlreadyTraining("another trainer is running this training: wait for its end, or stop it")
    with lock:
        yield


def training_fingerprint(
    base: Path,
    data: Path,
    validation: Path | None,
    recipe: Recipe,
    rendering: ChatRendering,
    initial_adapter: Path | None = None,
) -> str:
    """Return a hash of everything that decides the result of a training run.

    Raises:
        OSError: a file can't be read.
    """
    digest = hashlib.sha256(f"{recipe.fingerprint()}{rendering.fingerprint()}".encode())
    for path in sorted([*base.glob("*.json"), *base.glob("*.jinja")]):
        digest.update(f"{path.name} {path.stat().st_size}".encode() + path.read_bytes())
    for path in sorted(base.glob("*.safetensors")):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(f"{path.name} {size}".encode() + file.read())
    adapter = [initial_adapter / name for name in ADAPTER_FILES] if initial_adapter else []
    for file_path in (data, validation, *adapter):
        if file_path is not None:
            with file_path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
