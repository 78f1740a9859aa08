"""The usable API keys in memory, for the request path."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from loramux_server.auth import Principal
from loramux_server.keys.models import ApiKey, until


class _Usable(NamedTuple):
    principal: Principal
    until: float
    """Unix seconds; infinite for one that does not expire."""


class KeyLookup:
    """Finds callers by the SHA-256 of their keys, and notes which were used, without waiting for anything.

    All methods but `load` are for the thread of the event loop.

    The time that a lookup takes can at most reveal something about hashes, from which no key can be computed. Revoked
    keys are not in the table, and expired ones are treated alike, so that neither differs from an unknown one.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._usable: Mapping[str, _Usable] = {}
        self._used: dict[str, float] = {}

    @property
    def count(self) -> int:
        """How many secrets there are that are not revoked."""
        return len(self._usable)

    def load(self, keys: Iterable[ApiKey]) -> None:
        """Replace the keys by these; callable from any thread."""
        self._usable = {
            secret.digest: _Usable(key.principal, min(until(key.grant.expires_at), until(secret.expires_at)))
            for key in keys
            if key.revoked_at is None
            for secret in key.secrets
        }

    def find(self, digest: str) -> Principal | None:
        """Return the caller whose key has this SHA-256 in hex, None if there is no such key that is usable now."""
        found, now = self._usable.get(digest), self._now()
        if found is None or now >= found.until:
            return None
        self._used[digest] = now
        return found.principal

    def take_used(self) -> Mapping[str, float]:
        """Return when secrets, by digest, were last used since the last call."""
        used, self._used = self._used, {}
        return used
