"""Adapters from object stores and web servers through fsspec; credentials come from the environment only."""

import asyncio
import errno
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
from fsspec.callbacks import TqdmCallback

from loramux_adapters.errors import AdapterError, PathNotAllowed, SourceUnavailable
from loramux_adapters.intake.content import ADAPTER_FILES, check_listing
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.intake.sources.progress import progress_bar_class, size_check
from loramux_adapters.intake.sources.selection import copy_adapter
from loramux_adapters.intake.sources.urls import PACKAGES, split_url

STALL_TIMEOUT_SECONDS = 60.0
"""How long a download may receive nothing; the store's library has retried several times or given up by then."""

_PICKLE = "adapter_model.bin"
_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, slots=True)
class UrlSource:
    """The folder at `url` (`s3://bucket/path`), which must be inside one of the URLs `allowed`."""

    url: str = field(repr=False)  # not checked yet: it may contain a password
    allowed: Sequence[str]
    stall_timeout: float = STALL_TIMEOUT_SECONDS

    @property
    def origin(self) -> dict[str, str]:
        """The origin to record in the registry."""
        return {"type": "url", "url": self.url}

    def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
        """Download the adapter's files to `into`.

        Sizes are checked before the first byte is written, and again while bytes arrive.

        Raises:
            PathNotAllowed: the URL is malformed, or not allowed.
            SourceUnavailable: the files can't be downloaded.
            InvalidAdapter: a file is missing or too large.
            OSError: the disk failed.
        """
        scheme, *folder = self._allowed_parts()
        address = f"{scheme}://{'/'.join(folder)}"
        with _translated_errors(address):
            store = _ObjectStore(scheme, self.stall_timeout)

            def copy(name: str, limit: int) -> bool:
                bar = progress_bar_class(f"downloading {name}", report_progress, size_check(name, limit))
                try:
                    store.copy(f"{address}/{name}", into / name, bar)
                except FileNotFoundError:
                    return False
                except PermissionError:
                    # Stores answer so for files that do not exist, if the credentials do not allow to list them.
                    if name in ADAPTER_FILES:
                        raise
                    return False
                return True

            if not copy_adapter(copy, into, max_bytes):
                raise _missing_file_error(store, address)

    def _allowed_parts(self) -> tuple[str, ...]:
        try:
            parts = split_url(self.url)
        except ValueError as error:
            raise PathNotAllowed(f"This URL is invalid: {error}.") from None
        prefixes = map(split_url, self.allowed)
        if len(parts) > 1 and any(parts[: len(prefix)] == prefix for prefix in prefixes):
            return parts
        raise PathNotAllowed("The URL is outside the allowed URLs (LORAMUX_ALLOWED_URLS).")


class _ObjectStore:
    """A connection to the stores of a scheme for use in a thread; a download that stalls is cancelled."""

    def __init__(self, scheme: str, stall_timeout: float) -> None:
        self._stall_timeout = stall_timeout
        # Not fsspec's cached instance, which would keep old listings and credentials.
        self._files: Any = fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme))

    def copy(self, address: str, target: Path, bar: type[Any]) -> None:
        """Download `address` to `target` with a progress `bar`; raises FileNotFoundError and the library's errors."""
        with closing(TqdmCallback(tqdm_kwargs={"unit": "B"}, tqdm_cls=bar)) as callback:
            self._run(self._files._get_file(self._path(address), str(target), callback=callback), callback)

    def has(self, address: str) -> bool:
        """Whether there is a file at `address`."""
        try:
            return bool(self._run(self._files._info(self._path(address)))["type"] == "file")
        except FileNotFoundError:
            return False

    def _path(self, address: str) -> str:
        return str(self._files._strip_protocol(address))

    def _run(self, work: Coroutine[Any, Any, Any], callback: Any = None) -> Any:
        """Return the result of `work`, which runs on fsspec's event loop, unless its `callback` stops counting."""
        running, received = asyncio.run_coroutine_threadsafe(work, self._files.loop), 0
        while not wait([running], timeout=self._stall_timeout).done:
            if callback is None or callback.value == received:
                running.cancel()
                raise SourceUnavailable(f"the store has sent nothing for {self._stall_timeout:g} seconds")
            received = callback.value
        return running.result()


def _missing_file_error(store: _ObjectStore, address: str) -> AdapterError:
    """Find out what is missing at `address`, by name: permission to read does not imply permission to list."""
    present = [name for name in (*ADAPTER_FILES, _PICKLE) if store.has(f"{address}/{name}")]
    if present:
        check_listing(present)
    return SourceUnavailable(f"{address} does not exist, or contains no adapter")


def _options(scheme: str) -> dict[str, Any]:
    match PACKAGES[scheme]:
        case "s3fs":
            # One stream per file, which reports progress as it arrives and resumes when it is interrupted.
            return {"max_concurrency": 1}
        case "aiohttp":
            client = {"timeout": aiohttp.ClientTimeout(total=None), "raise_for_status": _refuse_redirect}
            return {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}, "allow_redirects": False}
    return {}


async def _refuse_redirect(response: aiohttp.ClientResponse) -> None:
    """Refuse redirects, since only this address was checked; fsspec handles other statuses."""
    if response.status in range(300, 400):
        raise SourceUnavailable("the server responded with a redirect, which is not followed: use the final URL")


@contextmanager
def _translated_errors(address: str) -> Iterator[None]:
    """Raise a store's exceptions as SourceUnavailable, except failures of this machine's disk."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_FAILURES:
            raise
        raise SourceUnavailable(_explain(error, address)) from error


def _explain(error: Exception, address: str) -> str:
    """Describe the error without the store's own message, which may contain keys."""
    match error:
        case ImportError():
            package = PACKAGES[address.partition(":")[0]]
            return f"{address} can't be read without the package {package}: install it where the server runs"
        case PermissionError():
            return f"{address} denied access: check the credentials in the server's environment"
    status = getattr(error, "status", None)
    reason = f"the server responded with {status}" if status else type(error).__name__
    return f"{address} can't be read ({reason}): check the network and the credentials in the server's environment"
