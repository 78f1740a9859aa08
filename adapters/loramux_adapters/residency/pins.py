"""Pinned versions: loaded in the background, and pinned to their slots in the engine."""

import asyncio
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field

from loramux_adapters.background_tasks import BackgroundTasks
from loramux_adapters.errors import AdapterError, PinLimit, TransientError
from loramux_adapters.models import VersionId
from loramux_adapters.residency.ports import Loader


@dataclass(eq=False)
class PinnedVersions:
    """The versions that should be pinned (`desired`, at most `max_pins`), and those pinned in the engine so far.

    `load` waits for room and loads a version. A load that fails with a TransientError is retried after the error's
    `retry_after`, for as long as the version is desired.
    """

    loader: Loader
    load: Callable[[VersionId], Awaitable[None]]
    is_resident: Callable[[VersionId], bool]
    max_pins: int
    sleep: Callable[[float], Awaitable[None]]
    desired: frozenset[VersionId] = frozenset()
    _pinned: set[VersionId] = field(default_factory=set)
    _sync_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: BackgroundTasks = field(default_factory=BackgroundTasks)

    def check(self, versions: Set[VersionId]) -> None:
        """Check that all of these can be pinned together: unpinned versions need a slot and host memory too.

        Raises:
            PinLimit: there are more than `max_pins`.
        """
        if len(versions) > self.max_pins:
            raise PinLimit(
                f"{len(versions)} versions would be pinned, but at most {self.max_pins} can be: unpin another adapter, "
                "or raise LORAMUX_ENGINE__MAX_LORAS and LORAMUX_ENGINE__MAX_CPU_LORAS."
            )

    def set_desired(self, versions: Set[VersionId]) -> None:
        """Replace the desired pins, up to `max_pins`; missing versions are loaded in the background."""
        before, self.desired = self.desired, frozenset(sorted(versions)[: self.max_pins])
        for version in self.desired - before:
            self._tasks.start(self._load_until_resident(version))
        if self.desired != before:
            self._tasks.start(self._sync_engine())

    def on_loaded(self, version: VersionId) -> None:
        """Pin a version that has just been loaded, if it is desired."""
        if version in self.desired:
            self._tasks.start(self._sync_engine())

    def on_unloaded(self, version: VersionId) -> None:
        """Record that a version has left the engine, and its pin with it."""
        if version in self._pinned:
            self._pinned.discard(version)
            self._tasks.start(self._sync_engine())

    async def _load_until_resident(self, version: VersionId) -> None:
        while version in self.desired and not self.is_resident(version):
            try:
                await self.load(version)
            except TransientError as error:
                await self.sleep(error.retry_after)
            except AdapterError:
                return  # removed or corrupt: the removal or quarantine changes the pins as well

    async def _sync_engine(self) -> None:
        """Unpin first, then pin: with all its slots pinned, the engine could not run another adapter at all."""
        async with self._sync_lock:
            for version in self._pinned - self.desired:
                if version in self._pinned and self.is_resident(version):  # else it left during the last await
                    await self.loader.pin(version, pinned=False)
                    self._pinned.discard(version)
            for version in self.desired - self._pinned:
                if self.is_resident(version) and len(self._pinned) < self.max_pins:
                    self._pinned.add(version)
                    await self.loader.pin(version, pinned=True)
