"""Authentication by API key."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers

from loramux_server.errors import InvalidApiKey


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of a request; `key_id` identifies a key without revealing it, and is safe to log."""

    key_id: str
    admin: bool


ANONYMOUS = Principal("anonymous", admin=True)
"""Every caller of a server without keys, which listens on loopback only."""


class Authenticator:
    """Authenticates callers by hashes of the keys; without keys, every caller is ANONYMOUS."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key.encode()) for key in keys)

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return not self._digests

    def principal(self, headers: Headers) -> Principal:
        """Return the caller, from `Authorization: Bearer KEY` or Anthropic's `x-api-key: KEY`.

        Raises:
            InvalidApiKey: the key is missing or unknown.

        """
        if self.is_open:
            return ANONYMOUS
        presented = _digest(_key(headers))
        # Every key is compared in full, so that the time taken reveals nothing about any of them.
        if sum(hmac.compare_digest(presented, digest) for digest in self._digests):
            return Principal(f"key_{presented.hex()[:12]}", admin=True)
        raise InvalidApiKey("Incorrect API key provided.")


def _key(headers: Headers) -> bytes:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    if not key.strip():
        raise InvalidApiKey("No API key provided: send it as `Authorization: Bearer KEY`.")
    return key.strip().encode("latin-1")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
