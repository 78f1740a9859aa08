"""Downloads the files of a version: resumed, checked by their digest, and complete or not there."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from loramux_adapters.errors import InvalidAdapter
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

    Raises:
        typer.Exit: there is no such version, or NAME points at several or none.
    """
    name, at, digest = text.partition("@")
    adapter = client.call("GET", adapter_path(name))
    if at:
        return adapter["name"], resolve_digest(client, name, digest)
    targets = [version["id"] for version in adapter["versions"] if version["weight"]]
    if len(targets) != 1:
        known = ", ".join(targets or [version["id"] for version in adapter["versions"]])
        state = "is split among several versions" if targets else "points at no version"
        fail(f"{name} {state}; expected one of them: {known}")
    return adapter["name"], targets[0].partition("@")[2]


def download_version(client: ApiClient, name: str, digest: str, target: Path) -> None:
    """Download a version to the new folder `target`; if it is there already, nothing is done.

    What an interrupted download has received stays next to `target`, and the next one goes on from it.

    Raises:
        typer.Exit: the server does not answer, `target` is something else, or the files are not those of the version.
        OSError: a file can't be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if _is_version(target, digest):
            return
        fail(f"{target} exists and is not {name}@{digest}; expected a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{digest}.part")
    _fetch(client, version_path(name, f"{digest}/content"), part)
    try:
        _unpack(part, digest, target)
    except InvalidAdapter as error:
        part.unlink()
        fail(f"the download of {name}@{digest} is damaged ({error.message}): run the command again")
    part.unlink()


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
    headers = {"range": f"bytes={start}-"} if start else {}
    with client.stream(path, headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # it is complete
        if response.is_error:
            response.read()
            fail(_refusal(response))
        start = start if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
        total = start + int(response.headers["content-length"])
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
