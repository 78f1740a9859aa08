"""The versions that stay in the engine: brought in in the background, and kept in their slots."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Set
from dataclasses import dataclass, field
from typing import Any

from loramux_adapters.errors import AdapterError, PassingError, PinLimit
from loramux_adapters.models import VersionId
from loramux_adapters.residency.ports import Loader


@dataclass(eq=False)
class Pins:
    """Which versions are `wanted`, at most `most` of them, and what the engine was told of it.

    `bring` waits for a version's turn and loads it. One that can't be had is asked for again after the pause that the
    error tells, for as long as it is wanted.
    """

    loader: Loader
    bring: Callable[[VersionId], Awaitable[None]]
    is_resident: Callable[[VersionId], bool]
    most: int
    sleep: Callable[[float], Awaitable[None]]
    wanted: frozenset[VersionId] = frozenset()
    _kept: set[VersionId] = field(default_factory=set)
    _telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def check(self, versions: Set[VersionId]) -> None:
        """Raise PinLimit if not all of these can be pinned: what is not pinned needs a slot and a place too."""
        if len(versions) > self.most:
            raise PinLimit(
                f"{len(versions)} versions would be pinned, and at most {self.most} can be: unpin another adapter, or "
                "raise LORAMUX_ENGINE__MAX_LORAS and LORAMUX_ENGINE__MAX_CPU_LORAS."
            )

    def want(self, versions: Set[VersionId]) -> None:
        """Keep exactly these from now on, as many as can be."""
        before, self.wanted = self.wanted, frozenset(sorted(versions)[: self.most])
        for version in self.wanted - before:
            self._start(self._bring_in(version))
        if self.wanted != before:
            self._start(self._tell())

    def arrived(self, version: VersionId) -> None:
        """Note that the version has been loaded."""
        if version in self.wanted:
            self._start(self._tell())

    def left(self, version: VersionId) -> None:
        """Note that the version has left the engine, where its pin has ended with it."""
        if version in self._kept:
            self._kept.discard(version)
            self._start(self._tell())

    async def _bring_in(self, version: VersionId) -> None:
        while version in self.wanted and not self.is_resident(version):
            try:
                await self.bring(version)
            except PassingError as error:
                await self.sleep(error.retry_after)
            except AdapterError:
                return  # removed or damaged, and whoever saw to that changes the pins as well

    async def _tell(self) -> None:
        """Tell the engine, first what to let go: if it ever kept all its slots, the next adapter would be its end."""
        async with self._telling:
            for version in self._kept - self.wanted:
                if version in self._kept and self.is_resident(version):  # else it left meanwhile
                    await self.loader.pin(version, pinned=False)
                    self._kept.discard(version)
            for version in self.wanted - self._kept:
                if self.is_resident(version) and len(self._kept) < self.most:
                    self._kept.add(version)
                    await self.loader.pin(version, pinned=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
