"""The versions that are in the engine now: single-flight loads, leases, and the residency plan carried out.

Decisions are taken between two awaits of one event loop, which is the lock; loading and unloading happen outside it.
A load belongs to the pool and not to the request that asked first, so a client that hangs up does not take the
adapter away from those who wait for the same one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

from . import residency
from .errors import AdapterError, NoAdapterCapacity, PinLimit, StoreError
from .failures import Failures, failed
from .pool_ports import Lease, Loader, PoolObserver, PoolView, ResidentView
from .records import VersionId
from .turns import Turns

_FULL = "Every place for adapters in the engine is in use; try again later."


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
    """Hands out leases on versions, and keeps no more than `capacity` of them in the engine, which has `slots` slots.

    Requests that find every place leased wait in the order they came. One that finds `max_waiting` before it, or that
    waited `max_wait` seconds, is refused (`NoAdapterCapacity`): overload is told, not queued.

    A version that failed is left alone for a while. One whose files are not what was accepted is told to `on_damage`.
    """

    loader: Loader
    capacity: int
    observer: PoolObserver
    slots: int
    on_damage: Callable[[VersionId, str], None] = lambda _version, _reason: None
    max_waiting: int = 256
    max_wait: float = 60.0
    clock: Callable[[], float] = time.monotonic
    failures: Failures = field(init=False)
    _pinned: frozenset[VersionId] = frozenset()
    _served: Counter[VersionId] = field(default_factory=Counter)
    _chores: set[asyncio.Task[None]] = field(default_factory=set)
    _places: dict[VersionId, _Place] = field(default_factory=dict)
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)
    _waiting: Turns = field(default_factory=Turns)
    _uses: int = 0

    def __post_init__(self) -> None:
        self.failures = Failures(self.clock)

    @property
    def has_room(self) -> bool:
        """Whether one more version could be loaded without another one leaving."""
        return len(self._places) < self.capacity

    def is_resident(self, version: VersionId) -> bool:
        """Whether the version is in the engine's host memory now."""
        place = self._places.get(version)
        return place is not None and place.is_ready

    def check(self, version: VersionId) -> None:
        """Refuse what could not even wait for a place.

        Raises:
            AdapterLoadingFailed: the version failed a moment ago.
            NoAdapterCapacity: the version is not resident, and as many requests wait already as may.

        """
        self.failures.check(version)
        if version not in self._places and len(self._waiting) >= self.max_waiting:
            raise NoAdapterCapacity(_FULL)

    async def lease(self, version: VersionId, *, served: bool = True) -> Lease:
        """Hold `version` in the engine; load it first if it is not there. Counts as a use if a request is `served`.

        Raises:
            AdapterLoadingFailed: the engine refused it, now or a moment ago.
            StoreError, VersionNotFound: its files are not what was accepted, or it was removed.
            NoAdapterCapacity: every place stayed leased for too long, or too many wait already.

        """
        lease = await self._lease(version)
        self._served[version] += served
        return lease

    async def prefetch(self, version: VersionId) -> None:
        """Bring the version in without holding it; waits and raises as `lease` does."""
        (await self.lease(version, served=False)).release()

    def check_pins(self, versions: Set[VersionId]) -> None:
        """Raise PinLimit if not all of these can be pinned: what is not pinned needs a slot and a place too."""
        most = min(self.slots, self.capacity) - 1
        if len(versions) > most:
            raise PinLimit(
                f"{len(versions)} versions would be pinned, and at most {most} can be: unpin another adapter, or raise "
                "LORAMUX_ENGINE__MAX_LORAS and LORAMUX_ENGINE__MAX_CPU_LORAS."
            )

    def pin(self, versions: Set[VersionId]) -> None:
        """Keep exactly these from now on, as many as can be; those that are missing are loaded in the background."""
        most = min(self.slots, self.capacity) - 1
        wanted, before = frozenset(sorted(versions)[:most]), self._pinned
        self._pinned = wanted
        for version in wanted - before:
            self._chore(self._keep(version))
        for version in before - wanted:
            self._chore(self._let_go(version))

    def forgive(self, version: VersionId) -> None:
        """Forget that the version failed: it is tried again at once."""
        self.failures.forget(version)

    def take_uses(self) -> dict[VersionId, int]:
        """How many leases each version was given since this was asked last."""
        uses, self._served = dict(self._served), Counter()
        return uses

    async def view(self) -> PoolView:
        """What is in the engine now, and what is not let in."""
        in_slots = await self.loader.slots()
        residents = tuple(
            ResidentView(version, place.leases, not place.is_ready, version in self._pinned, version in in_slots)
            for version, place in self._places.items()
        )
        return PoolView(self.capacity, self.slots, len(self._waiting), residents, self.failures.pauses())

    def discard(self, version: VersionId) -> None:
        """Take the version out of the engine: now, or when its last lease is released."""
        self.failures.forget(version)
        self._served.pop(version, None)
        place = self._places.get(version)
        if place is not None:
            place.doomed = True
            self._bury(version, place)

    async def _lease(self, version: VersionId) -> Lease:
        asked, cold = self.clock(), not self.is_resident(version)
        place = self._places.get(version) or await self._new_place(version)
        release = self._hold(version, place)
        try:
            await asyncio.shield(place.arrival)
        except (asyncio.CancelledError, AdapterError):
            release()
            raise
        except Exception as error:
            release()
            raise failed(version) from error
        return Lease(version, cold, self.clock() - asked, release)

    async def _new_place(self, version: VersionId) -> _Place:
        self.failures.check(version)
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
            await self._waiting.wait(again=may_go)
            may_go = True
        self._waiting.wake_next()
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
            if version in self._pinned:
                await self.loader.pin(version, pinned=True)
            ok = True
        finally:
            self.observer.loaded(version, self.clock() - began, ok=ok)

    def _arrived(self, version: VersionId, place: _Place) -> None:
        if place.failed:
            del self._places[version]
            self.observer.resident(len(self._places))
            self._note_failure(version, place)
        else:
            self.failures.forget(version)
        self._bury(version, place)
        self._waiting.wake_next()

    def _note_failure(self, version: VersionId, place: _Place) -> None:
        error = None if place.arrival.cancelled() else place.arrival.exception()
        if isinstance(error, StoreError):
            self.on_damage(version, error.message)
        elif not isinstance(error, AdapterError | None) and not place.doomed:
            self.failures.remember(version)

    async def _keep(self, version: VersionId) -> None:
        if self.is_resident(version):
            await self.loader.pin(version, pinned=True)
        else:
            await self.prefetch(version)

    async def _let_go(self, version: VersionId) -> None:
        if self.is_resident(version) and version not in self._pinned:
            await self.loader.pin(version, pinned=False)

    def _chore(self, work: Any) -> None:
        """Do it in the background; what goes wrong with a version is remembered where its load is."""
        task = _background(work, then=lambda: self._chores.discard(task))
        self._chores.add(task)

    def _evict(self, version: VersionId, reason: str) -> None:
        del self._places[version]
        self.observer.evicted(version, reason)
        self.observer.resident(len(self._places))
        task = _background(self.loader.unload(version), then=lambda: self._leaving.discard(task))
        self._leaving.add(task)

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
                self._waiting.wake_next()

        return release

    def _bury(self, version: VersionId, place: _Place) -> None:
        """Evict a discarded version as soon as it is loaded and nobody leases it."""
        if place.doomed and place.is_ready and not place.leases and self._places.get(version) is place:
            self._evict(version, "removed")
            self._waiting.wake_next()

    def _next_use(self) -> int:
        self._uses += 1
        return self._uses

    def _residents(self) -> dict[VersionId, residency.Resident]:
        return {
            version: residency.Resident(place.used, place.leases, not place.is_ready, version in self._pinned)
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
