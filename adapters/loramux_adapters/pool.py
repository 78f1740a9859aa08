"""The versions that are in the engine now: single-flight loads, leases, and the residency plan carried out.

Decisions are taken between two awaits of one event loop, which is the lock; loading and unloading happen outside it.
A load belongs to the pool and not to the request that asked first, so a client that hangs up does not take the
adapter away from those who wait for the same one.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import residency
from .errors import AdapterLoadingFailed, NoAdapterCapacity
from .records import VersionId

_FULL = "Every place for adapters in the engine is in use; try again later."


class Loader(Protocol):
    """Moves versions into and out of the engine's host memory."""

    async def load(self, version: VersionId) -> None:
        """Bring the version in; raise if the engine refuses it."""

    async def unload(self, version: VersionId) -> None:
        """Take the version out; it has no lease."""


class PoolObserver(Protocol):
    """Told what the pool does, for metrics."""

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:
        """A load ended, well or not."""

    def evicted(self, version: VersionId, reason: str) -> None:
        """A version left the engine: `capacity` (another needed its place) or `removed`."""

    def resident(self, count: int) -> None:
        """How many versions hold a place now."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A request's hold on a resident version, from before its first token until its stream closes."""

    version: VersionId
    cold: bool
    """Whether the version had to be loaded, or was still loading, when it was asked for."""
    waited: float
    """Seconds from the asking until it was resident."""
    release: Callable[[], None]
    """Gives the hold back; only the first call counts."""


@dataclass(eq=False, slots=True)
class _Place:
    """One version's place in the engine's host memory."""

    arrival: asyncio.Task[None]
    used: int
    leases: int = 0
    doomed: bool = False

    @property
    def is_ready(self) -> bool:
        return self.arrival.done()

    @property
    def failed(self) -> bool:
        return self.arrival.cancelled() or self.arrival.exception() is not None


@dataclass(eq=False)
class AdapterPool:
    """Hands out leases on versions, and keeps no more than `capacity` of them in the engine.

    Requests that find every place leased wait in the order they came. One that finds `max_waiting` before it, or that
    waited `max_wait` seconds, is refused (`NoAdapterCapacity`): overload is told, not queued.
    """

    loader: Loader
    capacity: int
    observer: PoolObserver
    max_waiting: int = 256
    max_wait: float = 60.0
    clock: Callable[[], float] = time.monotonic
    _places: dict[VersionId, _Place] = field(default_factory=dict)
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    _uses: int = 0

    def is_resident(self, version: VersionId) -> bool:
        """Whether the version is in the engine's host memory now."""
        place = self._places.get(version)
        return place is not None and place.is_ready

    def check(self, version: VersionId) -> None:
        """Refuse what could not even wait for a place.

        Raises:
            NoAdapterCapacity: the version is not resident, and as many requests wait already as may.

        """
        if version not in self._places and len(self._waiting) >= self.max_waiting:
            raise NoAdapterCapacity(_FULL)

    async def lease(self, version: VersionId) -> Lease:
        """Hold `version` in the engine; load it first if it is not there.

        Raises:
            AdapterLoadingFailed: the engine refused it.
            NoAdapterCapacity: every place stayed leased for too long, or too many wait already.

        """
        asked, cold = self.clock(), not self.is_resident(version)
        place = self._places.get(version) or await self._new_place(version)
        release = self._hold(version, place)
        try:
            await asyncio.shield(place.arrival)
        except asyncio.CancelledError:
            release()
            raise
        except Exception as error:
            release()
            raise AdapterLoadingFailed(f"The adapter {version} could not be loaded.") from error
        return Lease(version, cold, self.clock() - asked, release)

    def discard(self, version: VersionId) -> None:
        """Take the version out of the engine: now, or when its last lease is released."""
        place = self._places.get(version)
        if place is not None:
            place.doomed = True
            self._bury(version, place)

    async def _new_place(self, version: VersionId) -> _Place:
        try:
            async with asyncio.timeout(self.max_wait):
                return await self._queue_for_place(version)
        except TimeoutError:
            raise NoAdapterCapacity(_FULL) from None

    async def _queue_for_place(self, version: VersionId) -> _Place:
        """A place for the version, its load begun. Nothing is awaited between the decision and the entry."""
        may_go = not self._waiting  # else those who came before go first
        if not may_go:
            self.check(version)
        while not may_go or isinstance(action := self._plan(version), residency.Wait):
            await self._turn(again=may_go)
            may_go = True
        self._wake_next()
        return self._places.get(version) or self._begin_load(version, action.evict)

    def _plan(self, version: VersionId) -> residency.Load | residency.Wait:
        if version in self._places:
            return residency.Load()  # somebody else began it meanwhile
        return residency.plan(self._residents(), self.capacity)

    def _begin_load(self, version: VersionId, victim: VersionId | None) -> _Place:
        if victim is not None:
            self._evict(victim, "capacity")
        arrival = _background(self._load(version, list(self._leaving)), then=lambda: self._arrived(version, place))
        place = self._places[version] = _Place(arrival, self._next_use())
        self.observer.resident(len(self._places))
        return place

    async def _load(self, version: VersionId, leaving: list[asyncio.Task[None]]) -> None:
        """Load when all that leave have left: the engine never holds more than `capacity`."""
        began, ok = self.clock(), False
        try:
            await asyncio.gather(*leaving)
            await self.loader.load(version)
            ok = True
        finally:
            self.observer.loaded(version, self.clock() - began, ok=ok)

    def _arrived(self, version: VersionId, place: _Place) -> None:
        if place.failed:
            del self._places[version]
            self.observer.resident(len(self._places))
        self._bury(version, place)
        self._wake_next()

    def _evict(self, version: VersionId, reason: str) -> None:
        del self._places[version]
        self.observer.evicted(version, reason)
        self.observer.resident(len(self._places))
        task = _background(self.loader.unload(version), then=lambda: self._leaving.discard(task))
        self._leaving.add(task)

    async def _turn(self, *, again: bool) -> None:
        """Wait, first come first served, until a place may have become free; who had a turn in vain comes first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.insert(0 if again else len(self._waiting), turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self._wake_next()  # it was our turn, and we go without taking it
            raise

    def _wake_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _hold(self, version: VersionId, place: _Place) -> Callable[[], None]:
        place.leases += 1
        place.used = self._next_use()
        is_held = True

        def release() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                place.leases -= 1
                self._bury(version, place)
                self._wake_next()

        return release

    def _bury(self, version: VersionId, place: _Place) -> None:
        """Evict a discarded version as soon as it is loaded and nobody leases it."""
        if place.doomed and place.is_ready and not place.leases and self._places.get(version) is place:
            self._evict(version, "removed")
            self._wake_next()

    def _next_use(self) -> int:
        self._uses += 1
        return self._uses

    def _residents(self) -> dict[VersionId, residency.Resident]:
        return {
            version: residency.Resident(place.used, place.leases, loading=not place.is_ready)
            for version, place in self._places.items()
        }


def _background(work: Any, then: Callable[[], object]) -> asyncio.Task[None]:
    """Run `work` in a task of its own. An error that nobody awaits was told to the observer, not to be told again."""

    def done(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()
        then()

    task: asyncio.Task[None] = asyncio.ensure_future(work)
    task.add_done_callback(done)
    return task
