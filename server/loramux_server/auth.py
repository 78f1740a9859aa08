"""Authentication by API key."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from starlette.datastructures import Headers

from loramux_adapters.models import DEFAULT_PROJECT
from loramux_server.errors import InvalidApiKey


class Scope(StrEnum):
    """A right that a key may hold; ADMIN implies the others, in every project."""

    INFER = "infer"
    FINETUNE = "finetune"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of a request; `key_id` identifies a key without revealing it, is stable, and is safe to log.

    `project` is the tenant: files, jobs, adapters, stored responses and usage belong to a project. `models` are the
    patterns (`fnmatch`) of model names that the caller may use; None: the base and the adapters of its project.
    """

    key_id: str
    scopes: frozenset[Scope]
    project: str = DEFAULT_PROJECT
    organisation: str = DEFAULT_PROJECT
    models: tuple[str, ...] | None = None

    @property
    def admin(self) -> bool:
        """Whether the caller may do everything, in every project."""
        return Scope.ADMIN in self.scopes

    def has(self, scope: Scope) -> bool:
        """Return whether the caller holds this right."""
        return self.admin or scope in self.scopes


ADMINISTRATOR = frozenset({Scope.ADMIN})
ANONYMOUS = Principal("anonymous", ADMINISTRATOR)
"""Every caller of a server without keys, which listens on loopback only."""


class IssuedKeys(Protocol):
    """The keys that were issued at run time."""

    def find(self, digest: str) -> Principal | None:
        """Return the caller whose key has this SHA-256 in hex, None if there is no such key that is usable now."""


class Authenticator:
    """Authenticates callers by hashes of their keys: the settings' keys, of administrators, and those issued later.

    Without keys in the settings, every caller is ANONYMOUS.
    """

    def __init__(self, keys: Iterable[str], issued: IssuedKeys | None = None) -> None:
        self._digests = tuple(_digest(key.encode()) for key in keys)
        self._issued = issued

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return not self._digests

    def principal(self, headers: Headers) -> Principal:
        """Return the caller, from `Authorization: Bearer KEY` or Anthropic's `x-api-key: KEY`.

        Raises:
            InvalidApiKey: the key is missing, or it is unknown, expired or revoked, which look the same.

        """
        if self.is_open:
            return ANONYMOUS
        presented = _digest(_key(headers))
        # Every key is compared in full, so that the time taken reveals nothing about any of them.
        if sum(hmac.compare_digest(presented, digest) for digest in self._digests):
            return Principal(f"key_{presented.hex()[:12]}", ADMINISTRATOR)
        caller = self._issued.find(presented.hex()) if self._issued is not None else None
        if caller is None:
            raise InvalidApiKey("Incorrect API key provided.")
        return caller


def _key(headers: Headers) -> bytes:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    if not key.strip():
        raise InvalidApiKey("No API key provided: send it as `Authorization: Bearer KEY`.")
    return key.strip().encode("latin-1")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
