"""The errors of this package.

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
├── AliasNotFound             alias_not_found
├── AliasConflict             alias_conflict
├── AliasTargetMissing        model_not_found
├── StoreError                adapter_store_failed
└── TransientError            (retry_after: seconds until a retry may succeed)
    ├── AdapterLoadingFailed  adapter_loading_failed
    ├── NoAdapterCapacity     no_adapter_capacity
    └── EngineAsleep          engine_asleep

Codes are stable, for programs. Messages are for people: they contain no path of the server and are safe to show to a
client. The server maps codes to HTTP statuses.
"""

# ruff: noqa: N818 - the names say what happened without the suffix "Error".

import reprlib
from typing import ClassVar


class AdapterError(Exception):
    """The base class of this package's errors."""

    code: ClassVar[str] = "adapter_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidAdapterName(AdapterError):
    """A text is not a valid adapter name."""

    code = "adapter_name_invalid"


class InvalidVersion(AdapterError):
    """A text is not a valid `NAME@DIGEST`."""

    code = "version_invalid"


class InvalidAlias(AdapterError):
    """The targets or weights of a bare name are invalid."""

    code = "alias_invalid"


class UnsupportedBase(AdapterError):
    """The base model's architecture is not supported, or its config.json is incomplete."""

    code = "base_unsupported"


class InvalidAdapter(AdapterError):
    """Files are not a valid adapter of this base.

    `where` is the name of a file, or of a tensor or key in it; `expected` and `found` are None if they don't apply.
    """

    code = "adapter_invalid"

    def __init__(self, problem: str, *, where: str, expected: object = None, found: object = None) -> None:
        self.problem, self.where, self.expected, self.found = printable(problem), where, expected, found
        details = [
            f"{label} {printable(value)}"
            for label, value in (("expected", expected), ("found", found))
            if value is not None
        ]
        super().__init__(f"{printable(where)}: {self.problem}" + (f" ({', '.join(details)})" if details else ""))


class AdapterRejected(AdapterError):
    """A version's files are valid, but it failed its effect check; the message says why."""

    code = "adapter_rejected"


class SourceUnavailable(AdapterError):
    """A source does not respond, does not have the files, or denies access."""

    code = "source_unavailable"


class PathNotAllowed(AdapterError):
    """A folder is outside the allowed roots, or does not exist: clients can't tell the two apart."""

    code = "path_not_allowed"


class AdapterNotFound(AdapterError):
    """No adapter of this name is registered."""

    code = "adapter_not_found"


class VersionNotFound(AdapterError):
    """The adapter has no version of this digest."""

    code = "version_not_found"


class VersionNotReady(AdapterError):
    """The version is registered, but not served: it has not been checked yet, or was rejected."""

    code = "version_not_ready"


class VersionQuarantined(VersionNotReady):
    """The version was taken out of service because it computed NaN or infinite values, or its files were changed."""

    code = "adapter_quarantined"


class VersionInUse(AdapterError):
    """The bare name still points at the version."""

    code = "version_in_use"


class NothingToRollBack(AdapterError):
    """The bare name has no previous targets that can still be served."""

    code = "nothing_to_roll_back"


class PinLimit(AdapterError):
    """More versions would be pinned than the engine has room for."""

    code = "pin_limit_reached"


class AdapterExists(AdapterError):
    """The name is already in use."""

    code = "adapter_exists"


class AliasNotFound(AdapterError):
    """No model alias has this name."""

    code = "alias_not_found"


class AliasConflict(AdapterError):
    """The name or the target of a model alias is in use for something else."""

    code = "alias_conflict"


class AliasTargetMissing(AdapterError):
    """A model alias points at a model that this server does not have; `param` is the field of the request."""

    code = "model_not_found"

    def __init__(self, message: str, param: str = "model") -> None:
        super().__init__(message)
        self.param = param


class StoreError(AdapterError):
    """The store or the registry can't be read or written, or a stored version was changed after it was accepted."""

    code = "adapter_store_failed"


class TransientError(AdapterError):
    """A condition that may be over in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AdapterLoadingFailed(TransientError):
    """The engine failed to load an accepted version."""

    code = "adapter_loading_failed"


class NoAdapterCapacity(TransientError):
    """All adapters in the engine's host memory are in use."""

    code = "no_adapter_capacity"


class EngineAsleep(TransientError):
    """The engine's GPU memory is lent to a fine-tuning job, or is about to be."""

    code = "engine_asleep"

    def __init__(
        self, message: str = "The engine is asleep while a fine-tuning job trains in its GPU memory: retry later."
    ) -> None:
        super().__init__(message, retry_after=30.0)


def printable(value: object) -> str:
    """Format `value` on one line of bounded length: it may come from a hostile file, and goes to logs and clients."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:201])
    return line if len(line) <= 200 else f"{line[:199]}…"
