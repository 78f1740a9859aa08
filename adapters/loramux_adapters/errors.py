"""What can go wrong with adapters.

AdapterError                  adapter_error
├── InvalidAdapterName        adapter_name_invalid
├── InvalidVersion            version_invalid
├── InvalidAlias              alias_invalid
├── UnsupportedBase           base_unsupported
├── InvalidAdapter            adapter_invalid
├── AdapterRejected           adapter_rejected
├── SourceUnavailable         source_unavailable
├── PathNotAllowed            path_not_allowed
├── AdapterNotFound           adapter_not_found
├── VersionNotFound           version_not_found
├── VersionNotReady           version_not_ready
│   └── VersionQuarantined    adapter_quarantined
├── VersionInUse              version_in_use
├── NothingToRollBack         nothing_to_roll_back
├── PinLimit                  pin_limit_reached
├── AdapterExists             adapter_exists
├── StoreError                adapter_store_failed
└── PassingError              (retry_after: it may be over then)
    ├── AdapterLoadingFailed  adapter_loading_failed
    └── NoAdapterCapacity     no_adapter_capacity

A code is stable: programs may hold on to it. A message is for people, names no path of the server and is safe to show
to a client. HTTP is not known here: the server maps codes to statuses.
"""

# ruff: noqa: N818 - each name says what happened; that it is an error stands in the tree above.

import reprlib
from typing import ClassVar


class AdapterError(Exception):
    """The root: whatever this package refuses or fails at."""

    code: ClassVar[str] = "adapter_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidAdapterName(AdapterError):
    """A text that can't name an adapter."""

    code = "adapter_name_invalid"


class InvalidVersion(AdapterError):
    """A text that is not `NAME@DIGEST`."""

    code = "version_invalid"


class InvalidAlias(AdapterError):
    """Targets that a bare name can't lead to."""

    code = "alias_invalid"


class UnsupportedBase(AdapterError):
    """A base model whose shapes are unknown, so that no adapter can be checked against it."""

    code = "base_unsupported"


class InvalidAdapter(AdapterError):
    """Files that are not an adapter of this base: what is wrong, and where.

    `where` is a file's name, or a tensor's or key's in it; `expected` and `found` are None where they say nothing.
    """

    code = "adapter_invalid"

    def __init__(self, problem: str, *, where: str, expected: object = None, found: object = None) -> None:
        self.problem, self.where, self.expected, self.found = _shown(problem), where, expected, found
        details = [
            f"{label} {_shown(value)}"
            for label, value in (("expected", expected), ("found", found))
            if value is not None
        ]
        super().__init__(f"{_shown(where)}: {self.problem}" + (f" ({', '.join(details)})" if details else ""))


class AdapterRejected(AdapterError):
    """A version whose files are sound, but which did not prove itself on the engine; the message has the reason."""

    code = "adapter_rejected"


class SourceUnavailable(AdapterError):
    """The place where the files should come from does not answer, does not have them, or does not let us in."""

    code = "source_unavailable"


class PathNotAllowed(AdapterError):
    """A folder outside the roots that adapters may come from, or none at all: a client learns no difference."""

    code = "path_not_allowed"


class AdapterNotFound(AdapterError):
    """No adapter of this name is registered."""

    code = "adapter_not_found"


class VersionNotFound(AdapterError):
    """The adapter has no version of this digest."""

    code = "version_not_found"


class VersionNotReady(AdapterError):
    """The version is registered and does not serve: it is not proven yet, or was rejected."""

    code = "version_not_ready"


class VersionQuarantined(VersionNotReady):
    """The version served, and was taken out of service because of what it answered or what became of its files."""

    code = "adapter_quarantined"


class VersionInUse(AdapterError):
    """An adapter's bare name still leads to the version."""

    code = "version_in_use"


class NothingToRollBack(AdapterError):
    """The adapter's bare name never led to anything else that could serve now."""

    code = "nothing_to_roll_back"


class PinLimit(AdapterError):
    """Pinning this too would leave the other adapters no place."""

    code = "pin_limit_reached"


class AdapterExists(AdapterError):
    """The name is taken."""

    code = "adapter_exists"


class StoreError(AdapterError):
    """The store or the registry can't be read or written, or a stored version is no longer what was accepted."""

    code = "adapter_store_failed"


class PassingError(AdapterError):
    """What may be over `retry_after` seconds from now."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AdapterLoadingFailed(PassingError):
    """An accepted version did not get into the engine."""

    code = "adapter_loading_failed"


class NoAdapterCapacity(PassingError):
    """Every place in the engine is held by a request."""

    code = "no_adapter_capacity"


def _shown(value: object) -> str:
    """`value` on one bounded line: it may come from a hostile file, and goes to logs and clients."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:201])
    return line if len(line) <= 200 else f"{line[:199]}…"
