"""The store of accepted versions on disk, content-addressed and never changed in place.

    ROOT/versions/SHA256/    manifest.json and the files it lists: adapter_config.json, adapter_model.safetensors and,
                             if the adapter has one, chat_template.jinja (read-only)
    ROOT/staging/RANDOM/     files that are being fetched and checked, or removed

A version is added by one rename of a complete, flushed folder, and removed by one rename: after a crash it is complete
or absent.
"""

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from loramux_adapters.errors import InvalidAdapter, StoreError
from loramux_adapters.file_lock import FileLock
from loramux_adapters.fsync import fsync_path
from loramux_adapters.intake.content import OUT_OF_RESOURCES, VERSION_FILES, content_digest, hash_files, open_regular
from loramux_adapters.models import Manifest

MANIFEST_FILE = "manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST_BYTES = 1 << 22
_ADVICE = {
    errno.ENOSPC: "free space on the disk of LORAMUX_DATA_DIR",
    errno.EDQUOT: "free space on the disk of LORAMUX_DATA_DIR, or raise the quota",
    errno.EROFS: "mount the disk of LORAMUX_DATA_DIR for writing",
    errno.EACCES: "let the server's user write to LORAMUX_DATA_DIR",
    errno.EPERM: "let the server's user write to LORAMUX_DATA_DIR",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class VersionStore:
    """The store in the folder `root`, which is created if need be; several processes may share it.

    Every method raises StoreError if the disk fails.
    """

    def __init__(self, root: Path) -> None:
        self._versions, self._staging = root / "versions", root / "staging"
        with _store_errors("created"):
            for folder in (self._versions, self._staging):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Create an empty folder on the store's disk, and remove it with its content at the end of the context."""
        with _store_errors("written"), self._locked_staging() as folder:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def put(self, staged: Path, manifest: Manifest) -> Path:
        """Move the valid folder `staged` into the store as the version of `manifest`, and return its path.

        A version of the same content is kept if its files are intact, and replaced otherwise.
        """
        target = self.path(manifest.digest)
        with _store_errors("written"):
            (staged / MANIFEST_FILE).write_bytes(_serialize(manifest))
            for name in (*manifest.files, MANIFEST_FILE):
                (staged / name).chmod(0o444)
                fsync_path(staged / name, follow_links=False)
            fsync_path(staged, follow_links=False)
            try:
                staged.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._repair(staged, manifest.digest)
            fsync_path(self._versions, follow_links=False)
        return target

    def remove(self, digest: str) -> None:
        """Remove the version of the full SHA-256 `digest`, if it exists; a crash leaves it complete or absent."""
        with self.staging() as aside, suppress(FileNotFoundError):
            self.path(digest).rename(aside / "removed")
            fsync_path(self._versions, follow_links=False)

    def path(self, digest: str) -> Path:
        """Return the folder of the version of the full SHA-256 `digest`, which need not exist.

        Raises:
            StoreError: `digest` is not a SHA-256.
        """
        if not _SHA256.fullmatch(digest):
            raise StoreError("A version in the store must be named by 64 lower-case hex characters.")
        return self._versions / digest

    def verify(self, digest: str) -> Manifest:
        """Read all files of a version, compare them with what was accepted, and return its manifest.

        Raises:
            StoreError: the version is missing, or its files were changed.
            OSError: it can't be read now, for example because of too many open files.
        """
        folder = self.path(digest)
        try:
            with open_regular(folder / MANIFEST_FILE) as file:
                manifest = Manifest.model_validate_json(file.read(_MAX_MANIFEST_BYTES))
            found = content_digest(hash_files(folder, [name for name in VERSION_FILES if name in manifest.files]))
        except (OSError, ValidationError, InvalidAdapter) as error:
            if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
                raise
            raise StoreError(f"The version {digest[:12]} is missing from the store or corrupt.") from error
        if not found == manifest.digest == digest:
            raise StoreError(f"The version {digest[:12]} in the store was changed after it was accepted.")
        return manifest

    def _repair(self, staged: Path, digest: str) -> None:
        """Replace the stored version by the files of `staged`, unless it is intact."""
        try:
            self.verify(digest)
        except StoreError:
            with self.staging() as aside:
                self.path(digest).rename(aside / "corrupt")
                staged.rename(self.path(digest))

    def clean_staging(self) -> int:
        """Remove the staging folders of processes that have exited, and return their number.

        A folder that can't be removed stays until the next call. Versions are never removed here, because another
        registry that shares the store may refer to them.
        """
        removed = 0
        with _store_errors("cleaned up"), FileLock(self._staging, folder=True, follow_links=False):
            for folder in self._staging.iterdir():
                with suppress(OSError):
                    removed += self._remove_if_abandoned(folder)
        return removed

    @staticmethod
    def _remove_if_abandoned(folder: Path) -> bool:
        lock = FileLock(folder, folder=True, follow_links=False)
        if not lock.acquire(blocking=False):
            return False
        with lock:
            shutil.rmtree(folder)
        return True

    @contextmanager
    def _locked_staging(self) -> Iterator[Path]:
        """Create a staging folder and hold its lock, which `clean_staging` takes as a sign that it is in use."""
        with FileLock(
            self._staging, folder=True, follow_links=False
        ):  # no clean-up between creating the folder and locking it
            folder = Path(tempfile.mkdtemp(dir=self._staging))
            lock = FileLock(folder, folder=True, follow_links=False)
            lock.acquire()
        with lock:
            yield folder


def _serialize(manifest: Manifest) -> bytes:
    content = manifest.model_dump_json(indent=2).encode()
    if len(content) > _MAX_MANIFEST_BYTES:
        raise InvalidAdapter("the description of the adapter is too large", where=MANIFEST_FILE,
                             expected=f"at most {_MAX_MANIFEST_BYTES} bytes", found=len(content))  # fmt: skip
    return content


@contextmanager
def _store_errors(verb: str) -> Iterator[None]:
    """Raise operating system errors as StoreError, with advice on how to fix them."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        reason = f"{error.strerror}; {advice}" if advice else error.strerror
        raise StoreError(f"The adapter store can't be {verb}: {reason}.") from error
