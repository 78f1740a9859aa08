"""Downloads one file of a provider: resumed where it was interrupted, complete or absent, named by its content."""

import re
import time
from pathlib import Path

import httpx2
import openai
from openai import OpenAI

from loramux_server.importing.errors import ContentGoneError, ImportingError, ProviderError
from loramux_server.importing.folder import ImportFolder, StoredFile
from loramux_server.importing.provider_client import translated_errors

MAX_ATTEMPTS = 6
"""Attempts without a new byte; each is a new request, which goes on where the last one stopped."""
MAX_BYTES = 2 << 30
"""OpenAI's own limit of a training file is 512 MB."""
FIRST_WAIT_SECONDS = 0.5
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\ufffd]")
_START = re.compile(r"bytes (\d+)-")


def download(client: OpenAI, provider: str, file_id: str, folder: ImportFolder) -> StoredFile:
    """Download a file into the folder.

    Raises:
        ContentGoneError: the provider does not have the file.
        ProviderError: it did not send the whole file, after several attempts; what it sent is kept for the next one.
    """
    with translated_errors(provider):
        found = client.files.retrieve(file_id)
    size = found.bytes if isinstance(found.bytes, int) and found.bytes > 0 else None
    if size and size > MAX_BYTES:
        raise ProviderError(f"{file_id} has {size:,} bytes; expected at most {MAX_BYTES:,}")
    partial = folder.partial(file_id)
    _fetch_all(client, provider, file_id, partial, size)
    name = Path(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(found.filename or ""))).name[:200]
    return folder.add(partial, name or f"{file_id}.jsonl")


def _fetch_all(client: OpenAI, provider: str, file_id: str, partial: Path, size: int | None) -> None:
    attempts, wait = 0, FIRST_WAIT_SECONDS
    while True:
        before = _length(partial)
        try:
            with translated_errors(provider):
                _fetch(client, file_id, partial, before)
            if size in (None, _length(partial)):
                return
            reason: ImportingError = ProviderError(f"{_length(partial):,} of {size:,} bytes")
            if size is not None and _length(partial) > size:
                partial.unlink()
        except ContentGoneError:
            raise
        except ProviderError as error:
            reason = error
        attempts = 0 if _length(partial) > before else attempts + 1
        if attempts == MAX_ATTEMPTS:
            raise ProviderError(f"the file {file_id} stops: {reason}")
        time.sleep(wait if attempts else 0)
        wait = min(wait * 2, 30) if attempts else FIRST_WAIT_SECONDS


def _fetch(client: OpenAI, file_id: str, partial: Path, offset: int) -> None:
    """Request what follows the first `offset` bytes, and append it."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    request = client.with_options(max_retries=0).files.with_streaming_response.content(file_id, extra_headers=headers)
    try:
        with request as response:
            start = _START.match(response.headers.get("content-range", ""))
            goes_on = response.status_code == 206 and start is not None and int(start[1]) == offset
            with partial.open("ab" if goes_on else "wb") as file:
                for block in response.iter_bytes():  # of a given size, a part would be lost when it breaks off
                    file.write(block)
                    if file.tell() > MAX_BYTES:
                        raise ProviderError(f"more than {MAX_BYTES:,} bytes")
    except openai.APIStatusError as error:
        if error.status_code != 416:
            raise
        if not error.response.headers.get("content-range", "").endswith(f"/{offset}"):
            partial.unlink()  # what is there belongs to no file of this length
            raise ProviderError("it has fewer bytes than were downloaded before") from error
    except httpx2.StreamError as error:
        raise ProviderError(str(error)) from error


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
