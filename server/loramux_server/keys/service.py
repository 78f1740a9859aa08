"""Issues, rotates and revokes API keys, and follows what other servers do with them."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import StoreError
from loramux_server.keys.lookup import KeyLookup
from loramux_server.keys.models import ApiKey, IssuedKey, KeyGrant, new_id, new_secret, stored_secret
from loramux_server.keys.repository import KeyRepository

logger = logging.getLogger("loramux.keys")

REFRESH_SECONDS = 1.0
"""Time between two looks at the database: another server's revocation takes effect within it."""
USE_SECONDS = 10.0
"""Time between two writes of when keys were last used."""


class ApiKeys:
    """The API keys of all servers that share a database. The synchronous methods block on it.

    While the database can't be read, the keys that were read last stay in force.

    Raises:
        StoreError: the database can't be read or written.
    """

    def __init__(self, repository: KeyRepository, now: Callable[[], float] = time.time) -> None:
        self._repository, self._now = repository, now
        self.lookup = KeyLookup(now)
        """Finds the caller of a request."""
        self._revision = -1
        self._lock = threading.Lock()

    def all(self, project: str | None = None) -> list[ApiKey]:
        """Return the keys of a project, or all of them, newest first."""
        return self._repository.all(project)

    def get(self, key_id: str) -> ApiKey:
        """Return a key.

        Raises:
            InvalidRequest: there is none of this id.
        """
        return self._repository.get(key_id)

    def create(self, grant: KeyGrant, actor: str) -> IssuedKey:
        """Issue a new key, which works immediately on this server.

        Raises:
            InvalidRequest: the project belongs to another organisation.
        """
        now, secret = self._now(), new_secret()
        key = ApiKey(new_id(), grant, now, actor, secrets=[stored_secret(secret, now)])
        key = self._repository.add(key)
        logger.info("%s created the API key %s of project %s", actor, key.id, grant.project)
        self._try_refresh()
        return IssuedKey(key, secret)

    def rotate(self, key_id: str, overlap_seconds: float, actor: str) -> IssuedKey:
        """Give a key a new secret; the old one works for `overlap_seconds` more.

        Raises:
            InvalidRequest: there is no such key, or it has expired or is revoked.
        """
        now, secret = self._now(), new_secret()
        key = self._repository.rotate(key_id, stored_secret(secret, now), now + overlap_seconds)
        logger.info("%s rotated the API key %s", actor, key_id)
        self._try_refresh()
        return IssuedKey(key, secret)

    def revoke(self, key_id: str, actor: str) -> ApiKey:
        """Revoke a key for good: on this server immediately, on others within REFRESH_SECONDS.

        Raises:
            InvalidRequest: there is none of this id.
        """
        key = self._repository.revoke(key_id, actor, self._now())
        logger.info("%s revoked the API key %s", actor, key_id)
        self._try_refresh()
        return key

    def refresh(self) -> None:
        """Read the keys if one was changed since the last time."""
        with self._lock:  # else an older reading could replace a newer one
            revision = self._repository.revision()
            if revision != self._revision:
                self.lookup.load(self._repository.all())
                self._revision = revision

    async def write_use(self) -> None:
        """Write when keys were last used, since the last time."""
        used = self.lookup.take_used()
        if used:
            await asyncio.to_thread(self._repository.record_use, used)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow changes by other servers, and write the use of keys, while the context is active."""
        try:
            async with running_task(self._refresh_periodically()), running_task(self._write_use_periodically()):
                yield
        finally:
            with _warnings():
                await self.write_use()

    async def _refresh_periodically(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await asyncio.to_thread(self._try_refresh)

    async def _write_use_periodically(self) -> None:
        while True:
            await asyncio.sleep(USE_SECONDS)
            with _warnings():
                await self.write_use()

    def _try_refresh(self) -> None:
        with _warnings():
            self.refresh()


@contextmanager
def _warnings() -> Iterator[None]:
    """Log a failure of the database instead of raising it."""
    try:
        yield
    except StoreError as error:
        logger.warning("%s The keys that were read last stay in force.", error)
