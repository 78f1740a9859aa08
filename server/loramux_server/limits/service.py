"""The limits in force: those of the settings, and those set at run time, which apply to all servers within seconds."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import StoreError
from loramux_server.limits.accounts import Accounts
from loramux_server.limits.limit import EVERY, NO_LIMIT, Limit, Subject, SubjectKind
from loramux_server.limits.repository import LimitRepository, StoredLimit

logger = logging.getLogger("loramux.limits")

REFRESH_SECONDS = 2.0
"""Time between two looks at the database, where another server may have changed the limits."""


@dataclass(frozen=True, slots=True)
class DefinedLimit:
    """The limits of a subject, and where they are from."""

    subject: Subject
    limit: Limit
    stored: StoredLimit | None
    """None if they are from the settings."""


class LimitService:
    """Limits by subject. Those that were set at run time replace those of the settings.

    A subject without a value for a limit has that of `*`, its default for every key, project or adapter.
    """

    def __init__(self, repository: LimitRepository, accounts: Accounts, settings: Mapping[Subject, Limit]) -> None:
        self._repository, self._accounts, self._settings = repository, accounts, settings
        self._stored: Mapping[Subject, StoredLimit] = {}
        self._refreshing = asyncio.Lock()

    def of(self, subject: Subject) -> Limit:
        """Return the limits of a subject."""
        default = self._defined(Subject(subject.kind, EVERY))
        return self._defined(subject).over(default)

    def _defined(self, subject: Subject) -> Limit:
        stored = self._stored.get(subject)
        return stored.limit if stored else self._settings.get(subject, NO_LIMIT)

    def all(self) -> Sequence[DefinedLimit]:
        """Return all limits that are defined, by kind and name."""
        return [
            DefinedLimit(subject, self._defined(subject), self._stored.get(subject))
            for subject in sorted({*self._settings, *self._stored})
        ]

    async def set(self, subject: Subject, limit: Limit, actor: str) -> DefinedLimit:
        """Replace the limits of a subject, on all servers that share the database.

        Raises:
            StoreError: the database can't be written.
        """
        await asyncio.to_thread(self._repository.set, subject, limit, actor)
        await self.refresh()
        return DefinedLimit(subject, self._defined(subject), self._stored.get(subject))

    async def remove(self, subject: Subject) -> bool:
        """Remove the limits of a subject that were set at run time; those of the settings apply again.

        Raises:
            StoreError: the database can't be written.
        """
        is_removed = await asyncio.to_thread(self._repository.remove, subject)
        await self.refresh()
        return is_removed

    async def refresh(self) -> None:
        """Read the limits of the database.

        Raises:
            StoreError: the database can't be read.
        """
        async with self._refreshing:  # or else an older reading could replace a newer one
            stored = await asyncio.to_thread(self._repository.all)
            removed, self._stored = set(self._stored) - set(stored), stored
            if removed:
                # Without limits, nothing is counted: a subject with new ones starts from the ledger.
                kinds = {subject.kind for subject in removed}
                await self._accounts.forget(lambda subject: subject.kind in kinds and not self.of(subject).values)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow changes by other servers while the context is active.

        Raises:
            StoreError: the database can't be read.
        """
        await self.refresh()
        async with running_task(self._refresh_periodically()):
            yield

    async def _refresh_periodically(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except StoreError as error:
                logger.warning("%s The old ones stay.", error)


def by_subject(named: Mapping[SubjectKind, Mapping[str, Limit]]) -> dict[Subject, Limit]:
    """Return the limits of the settings by subject."""
    return {Subject(kind, name): limit for kind, limits in named.items() for name, limit in limits.items()}
