"""Adapters from an object store, by fsspec; credentials come from the server's environment alone."""

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
from loramux_adapters.intake.sources import Tell
from loramux_adapters.intake.sources.progress import at_most, progress_bar
from loramux_adapters.intake.sources.urls import PACKAGES, split_url

SILENCE_SECONDS = 60.0
"""How long nothing may arrive; a store's own library has given up or tried again several times by then."""

_PICKLE = "adapter_model.bin"
_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, slots=True)
class UrlSource:
    """The folder at `url` (`s3://bucket/path`), which counts only inside one of the URLs `allowed`."""

    url: str = field(repr=False)  # not checked yet: it may hold a password
    allowed: Sequence[str]

    @property
    def origin(self) -> dict[str, str]:
        """What the registry remembers of where a version came from."""
        return {"type": "url", "url": self.url}

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        """Download the files named in `largest`, each of at most so many bytes, to `into`.

        A file's size is looked at before its first byte is written, and counted again while bytes arrive.
        Raises PathNotAllowed, SourceUnavailable, InvalidAdapter, and OSError where the disk is at fault.
        """
        scheme, *folder = self._allowed_parts()
        address = f"{scheme}://{'/'.join(folder)}"
        with _in_words(address):
            store = _Store(scheme)
            for name, most in largest.items():
                try:
                    bar = progress_bar(f"downloading {name}", tell, at_most(name, most))
                    store.copy(f"{address}/{name}", into / name, bar)
                except FileNotFoundError as error:
                    raise _missing(store, address) from error

    def _allowed_parts(self) -> tuple[str, ...]:
        try:
            parts = split_url(self.url)
        except ValueError as error:
            raise PathNotAllowed(f"This URL can't be fetched from: {error}.") from None
        prefixes = map(split_url, self.allowed)
        if len(parts) > 1 and any(parts[: len(prefix)] == prefix for prefix in prefixes):
            return parts
        raise PathNotAllowed("The URL is in none of the places that adapters may come from (LORAMUX_ALLOWED_URLS).")


class _Store:
    """One connection to the stores of a scheme, used from a thread, and given up when nothing arrives."""

    def __init__(self, scheme: str) -> None:
        # A connection of our own: a shared one would remember what is where, and the credentials of before.
        self._files: Any = fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme))

    def copy(self, address: str, target: Path, bar: type[Any]) -> None:
        """Download `address` to `target`, counted by a `bar`; raises FileNotFoundError and the library's own."""
        with closing(TqdmCallback(tqdm_kwargs={"unit": "B"}, tqdm_cls=bar)) as callback:
            self._finish(self._files._get_file(self._path(address), str(target), callback=callback), callback)

    def has(self, address: str) -> bool:
        """Say whether there is a file at `address`."""
        try:
            return bool(self._finish(self._files._info(self._path(address)))["type"] == "file")
        except FileNotFoundError:
            return False

    def _path(self, address: str) -> str:
        return str(self._files._strip_protocol(address))

    def _finish(self, work: Coroutine[Any, Any, Any], callback: Any = None) -> Any:
        """Return what `work` does, which runs on the library's own loop, as long as its `callback` counts on."""
        running, seen = asyncio.run_coroutine_threadsafe(work, self._files.loop), 0
        while not wait([running], timeout=SILENCE_SECONDS).done:
            if callback is None or callback.value == seen:
                running.cancel()
                raise SourceUnavailable(f"the store has been silent for {SILENCE_SECONDS:.0f} seconds")
            seen = callback.value
        return running.result()


def _missing(store: _Store, address: str) -> AdapterError:
    """Say what is missing at `address`, asked for by name: who may read need not be allowed to list."""
    present = [name for name in (*ADAPTER_FILES, _PICKLE) if store.has(f"{address}/{name}")]
    if present:
        check_listing(present)
    return SourceUnavailable(f"{address} does not exist, or holds no adapter")


def _options(scheme: str) -> dict[str, Any]:
    match PACKAGES[scheme]:
        case "s3fs":
            # One stream a file: counted as it comes, and when it is cut it goes on where it was.
            return {"max_concurrency": 1}
        case "aiohttp":
            client = {"timeout": aiohttp.ClientTimeout(total=None), "raise_for_status": _refuse_redirect}
            return {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}, "allow_redirects": False}
    return {}


async def _refuse_redirect(response: aiohttp.ClientResponse) -> None:
    """Refuse to be sent elsewhere, since only this address was checked; other answers are fsspec's to judge."""
    if response.status in range(300, 400):
        raise SourceUnavailable("the server sends us elsewhere, which is not followed")


@contextmanager
def _in_words(address: str) -> Iterator[None]:
    """Turn a store's exceptions into words, unless it is this machine's disk that has failed."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_FAILURES:
            raise
        raise SourceUnavailable(_explain(error, address)) from error


def _explain(error: Exception, address: str) -> str:
    """Say what kind of trouble it is, not in the store's own words: they may hold keys."""
    match error:
        case ImportError():
            package = PACKAGES[address.partition(":")[0]]
            return f"{address} can't be read before the package {package} is installed where the server runs"
        case PermissionError():
            return f"{address} does not let us in: check the credentials in the server's environment"
    status = getattr(error, "status", None)
    what = f"the server answered {status}" if status else type(error).__name__
    return f"{address} can't be read ({what}): check the network and the credentials in the server's environment"
