"""The accepted versions on disk, named by their content and never changed in place.

    ROOT/versions/SHA256/    adapter_config.json, adapter_model.safetensors, manifest.json (read-only)
    ROOT/staging/RANDOM/     what is being fetched and checked, or removed

A version appears by one rename of a complete, flushed folder, and goes by one rename: after a crash it is there in full
or not at all.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from loramux_adapters.errors import InvalidAdapter, StoreError
from loramux_adapters.intake.content import ADAPTER_FILES, OUT_OF_RESOURCES, content_digest, file_facts, open_regular
from loramux_adapters.models import Manifest

MANIFEST_FILE = "manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST_BYTES = 1 << 20
_ADVICE = {
    errno.ENOSPC: "free space on the disk of LORAMUX_DATA_DIR",
    errno.EDQUOT: "free space on the disk of LORAMUX_DATA_DIR, or raise the quota",
    errno.EROFS: "mount the disk of LORAMUX_DATA_DIR for writing",
    errno.EACCES: "let the server's user write to LORAMUX_DATA_DIR",
    errno.EPERM: "let the server's user write to LORAMUX_DATA_DIR",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class Store:
    """The store in the folder `root`, which is made if need be; several processes may share it. Raises StoreError."""

    def __init__(self, root: Path) -> None:
        self._versions, self._staging = root / "versions", root / "staging"
        with _translated("made"):
            for folder in (self._versions, self._staging):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Lend an empty folder of the store's own; what is still in it at the end is removed."""
        with _translated("written"), self._locked_staging() as folder:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def put(self, staged: Path, manifest: Manifest) -> Path:
        """Move the checked folder `staged` in as the version that `manifest` describes, and return its path.

        The same content put again is the same version: what is there stays if it is still sound, else it is replaced.
        """
        target = self.path(manifest.digest)
        with _translated("written"):
            (staged / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2))
            for name in (*ADAPTER_FILES, MANIFEST_FILE):
                (staged / name).chmod(0o444)
                _flush(staged / name)
            _flush(staged)
            try:
                staged.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._repair(staged, manifest.digest)
            _flush(self._versions)
        return target

    def remove(self, digest: str) -> None:
        """Remove the version of the full SHA-256 `digest`, if it is there; a crash leaves all of it or nothing."""
        with self.staging() as aside, suppress(FileNotFoundError):
            self.path(digest).rename(aside / "removed")
            _flush(self._versions)

    def path(self, digest: str) -> Path:
        """Return the folder of the version of the full SHA-256 `digest`, whether it is there or not."""
        if not _SHA256.fullmatch(digest):
            raise StoreError("A version in the store is named by 64 lower-case hex characters.")
        return self._versions / digest

    def verify(self, digest: str) -> Manifest:
        """Read all of a version and return its manifest; raises StoreError unless it is exactly what was accepted.

        OSError means that it can't be read now and nothing else, as with too many open files.
        """
        folder = self.path(digest)
        try:
            with open_regular(folder / MANIFEST_FILE) as file:
                manifest = Manifest.model_validate_json(file.read(_MAX_MANIFEST_BYTES))
            found = content_digest(file_facts(folder))
        except (OSError, ValidationError, InvalidAdapter) as error:
            if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
                raise
            raise StoreError(f"The version {digest[:12]} is missing from the store or damaged.") from error
        if not found == manifest.digest == digest:
            raise StoreError(f"The version {digest[:12]} in the store was changed after it was accepted.")
        return manifest

    def _repair(self, staged: Path, digest: str) -> None:
        """Replace the version that is there by the files of `staged`, unless it is sound."""
        try:
            self.verify(digest)
        except StoreError:
            with self.staging() as aside:
                self.path(digest).rename(aside / "damaged")
                staged.rename(self.path(digest))

    def sweep(self) -> int:
        """Remove what ended processes left half-written, and return how many folders that were.

        What can't be removed now stays until the next time. A complete version stays in any case: only whoever knows
        all the registries that may share this store could say that nobody needs it.
        """
        swept = 0
        with _translated("swept"), _locked(self._staging, fcntl.LOCK_EX):
            for folder in self._staging.iterdir():
                with suppress(OSError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(folder)
                    swept += 1
        return swept

    @contextmanager
    def _locked_staging(self) -> Iterator[Path]:
        """Make a staging folder and hold its lock, by which a sweep knows it from a dead process's."""
        with _locked(self._staging, fcntl.LOCK_EX):  # No sweep comes between making the folder and locking it.
            folder = Path(tempfile.mkdtemp(dir=self._staging))
            lock = _lock(folder, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            os.close(lock)


def _lock(folder: Path, operation: int) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(folder: Path, operation: int) -> Iterator[None]:
    descriptor = _lock(folder, operation)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _translated(verb: str) -> Iterator[None]:
    """Turn the system's errors into the store's, with what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        reason = f"{error.strerror}; {advice}" if advice else error.strerror
        raise StoreError(f"The adapter store can't be {verb}: {reason}.") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
