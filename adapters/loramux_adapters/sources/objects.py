"""Adapters from an object store, by any URL that fsspec knows; credentials come from the environment alone."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from loramux_adapters.content import ADAPTER_FILES, check_listing, too_large
from loramux_adapters.errors import PathNotAllowed, SourceUnavailable
from loramux_adapters.sources import Tell

_PIECE_BYTES = 1 << 20
_LOCAL = frozenset({"", "file", "local", "memory", "dir", "zip", "tar", "libarchive", "cached", "simplecache"})
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_TIMEOUTS = {"s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 2}}}}


@dataclass(frozen=True, slots=True)
class UrlSource:
    """The folder at `url` (`s3://bucket/path`), which counts only inside one of the prefixes `allowed`."""

    url: str
    allowed: Sequence[str]

    @property
    def origin(self) -> dict[str, str]:
        """What the registry remembers of where a version came from."""
        return {"type": "url", "url": self.url}

    def fetch(self, into: Path, largest: Mapping[str, int], tell: Tell) -> None:
        """Download the files named in `largest`, each of at most so many bytes, to `into`.

        Sizes are asked for first, and counted again while bytes arrive.
        Raises PathNotAllowed, SourceUnavailable, InvalidAdapter, OSError.
        """
        protocol = self._check()
        try:
            store: Any = fsspec.filesystem(protocol, **_TIMEOUTS.get(protocol, {}))
            root = store._strip_protocol(self.url)
            sizes = {posixpath.basename(file["name"]): file["size"] for file in store.ls(root, detail=True)}
        except ImportError as error:
            raise SourceUnavailable(f"{protocol} needs the package {_PACKAGES.get(protocol, protocol)}.") from error
        except Exception as error:  # each store has exceptions of its own
            raise _unavailable(error) from error
        check_listing(sizes)
        for name, most in largest.items():
            if sizes[name] > most:
                raise too_large(name, most, sizes[name])
        for name, most in largest.items():
            _download(store, f"{root}/{name}", into / name, most, tell)

    def _check(self) -> str:
        """Return the URL's protocol if the URL is allowed."""
        parts = urlsplit(self.url)
        plain = not (parts.username or parts.password or parts.query or parts.fragment or "@" in parts.netloc)
        steps = parts.path.split("/")
        sound = self.url.isprintable() and not {"..", "."} & set(steps) and "%" not in self.url and "::" not in self.url
        if plain and sound and parts.scheme not in _LOCAL and parts.netloc:
            address = self.url.rstrip("/") + "/"
            if any(address.startswith(_whole(prefix)) for prefix in self.allowed):
                return parts.scheme
        raise PathNotAllowed(
            "The URL is in none of those that adapters may come from (LORAMUX_ALLOWED_URLS), or holds a user, "
            "a password, a query or a step upwards; credentials come from the server's environment."
        )


def _whole(prefix: str) -> str:
    """`prefix` up to the end of a part of the path: `s3://models` does not let `s3://models-of-others` in."""
    return prefix if prefix.endswith("/") else prefix + "/"


def _download(store: Any, address: str, target: Path, most: int, tell: Tell) -> None:
    received = 0
    try:
        with store.open(address, "rb", block_size=_PIECE_BYTES) as remote, target.open("xb") as copy:
            while received <= most and (piece := remote.read(_PIECE_BYTES)):
                received += copy.write(piece)
                tell(f"downloading {target.name}: {received / 1e6:.1f} MB")
    except Exception as error:  # as above
        raise _unavailable(error) from error
    if received > most:
        raise too_large(target.name, most, received)


def _unavailable(error: Exception) -> SourceUnavailable:
    """Say what kind of trouble it is; the store's own words may hold addresses and keys."""
    match error:
        case FileNotFoundError():
            return SourceUnavailable(f"The object store has no such folder with {' and '.join(ADAPTER_FILES)}.")
        case PermissionError():
            return SourceUnavailable("The object store does not let us in: check the credentials in the environment.")
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return SourceUnavailable("There are no credentials for the object store in the server's environment.")
    return SourceUnavailable(f"The object store can't be read ({type(error).__name__}): try again later.")
