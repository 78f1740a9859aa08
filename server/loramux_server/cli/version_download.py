"""Downloads the files of a version: resumed, checked by their digest, and complete or not there."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import httpx

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.file_lock import FileLock
from loramux_adapters.fsync import fsync_path
from loramux_adapters.intake.archive import check_digest, unpack
from loramux_adapters.intake.content import hash_files
from loramux_server.cli.adapter_names import adapter_path, resolve_digest, version_path
from loramux_server.cli.api_client import ApiClient, error_message
from loramux_server.cli.console import byte_progress, fail

RETRY_SECONDS = 1.0
MAX_FAILURES = 5
"""Connections in a row that bring nothing, after which a download gives up."""


def find_version(client: ApiClient, text: str) -> tuple[str, str]:
    """Return the adapter's own name and the full digest of NAME@DIGEST, or of what NAME points at.

    NAME may be an alias of an adapter or of a version.

    Raises:
        typer.Exit: there is no such version, or NAME points at several or none.
    """
    name, at, digest = _own_name(client, text).partition("@")
    adapter = client.call("GET", adapter_path(name))
    if at:
        return adapter["name"], resolve_digest(client, name, digest)
    targets = [version["id"] for version in adapter["versions"] if version["weight"]]
    if len(targets) != 1:
        known = ", ".join(targets or [version["id"] for version in adapter["versions"]])
        state = "is split among several versions" if targets else "points at no version"
        fail(f"{name} {state}; expected one of them: {known}")
    return adapter["name"], targets[0].partition("@")[2]


def _own_name(client: ApiClient, text: str) -> str:
    """Return the version that an alias stands for, else `text` itself: the server resolves aliases of adapters."""
    alias = None if "@" in text else client.find(f"/admin/aliases/{quote(text)}")
    if not alias or alias["serves"] != "version" or alias["shadowed"]:
        return text
    return str(alias["target"])


def download_version(client: ApiClient, name: str, digest: str, target: Path) -> None:
    """Download a version to the new folder `target`; if it is there already, nothing is done.

    What an interrupted download has received stays next to `target`, and the next one goes on from it.

    Raises:
        typer.Exit: the server does not answer, `target` is something else, or the files are not those of the version.
        OSError: a file can't be written.
    """
    target = target.resolve()
    if _is_there(target, name, digest):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{digest}.part")
    lock = FileLock(part)
    if not lock.acquire(blocking=False):
        fail(f"another command is downloading {name}@{digest} to {target}: wait for it, or choose another folder")
    with lock:
        try:
            if not _is_there(target, name, digest):  # which the command that had the lock before may have done
                _fetch(client, version_path(name, f"{digest}/content"), part)
                _unpack(part, digest, target)
            part.unlink()
        except InvalidAdapter as error:
            part.unlink()
            fail(f"the download of {name}@{digest} is damaged ({error.message}): run the command again")
        finally:
            if not _size(part):
                part.unlink(missing_ok=True)


def _is_there(target: Path, name: str, digest: str) -> bool:
    """Whether the version is in `target`; anything else there ends the command, but for an empty folder."""
    if not target.exists() or (target != Path.cwd() and target.is_dir() and not any(target.iterdir())):
        return False
    if not _is_version(target, digest):
        fail(f"{target} exists and is not {name}@{digest}; expected a new folder")
    return True


def _is_version(folder: Path, digest: str) -> bool:
    try:
        check_digest(hash_files(folder), digest)
    except InvalidAdapter:
        return False
    return True


def _unpack(archive: Path, digest: str, target: Path) -> None:
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary, archive.open("rb") as file:
        folder = Path(temporary) / target.name
        folder.mkdir()
        files = unpack(file, folder)
        check_digest(files, digest)
        for path in (*(folder / name for name in files), folder):
            fsync_path(path)
        folder.rename(target)
    fsync_path(target.parent)


def _fetch(client: ApiClient, path: str, part: Path) -> None:
    """Complete the file `part`, over as many connections as it takes."""
    failures = 0
    while True:
        received = _size(part)
        try:
            _receive(client, path, part, received)
        except (httpx.TransportError, TimeoutError) as error:
            failures = 1 if _size(part) > received else failures + 1
            if failures == MAX_FAILURES:
                client.fail_unreachable(error)
            time.sleep(RETRY_SECONDS)
        else:
            return


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(client: ApiClient, path: str, part: Path, start: int) -> None:
    # A proxy may compress what has no range: then the sizes would be those of something else.
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
    with client.stream(path, headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # it is complete
        if response.is_error:
            response.read()
            fail(_refusal(response))
        start = start if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
        length = response.headers.get("content-length")  # which a proxy may leave out
        total = None if length is None else start + int(length)
        with byte_progress() as bar, part.open("ab" if start else "wb") as file:
            task = bar.add_task("downloading", total=total, completed=start)
            for piece in response.iter_bytes():
                file.write(piece)
                bar.advance(task, len(piece))


def _refusal(response: httpx.Response) -> str:
    try:
        return error_message(response.json())
    except ValueError:
        return f"the server responded with status {response.status_code}"
