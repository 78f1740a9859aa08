"""The versions that are in the engine now: single-flight loads, leases, and the residency plan carried out.

Decisions are taken between two awaits of one event loop, which is the lock; loading and unloading happen outside it.
A load belongs to the pool and not to the request that asked first, so a client that hangs up does not take the
adapter away from those who wait for the same one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field

from loramux_adapters.errors import AdapterError, NoAdapterCapacity, StoreError
from loramux_adapters.models import VersionId
from loramux_adapters.residency import policy as residency
from loramux_adapters.residency.backoff import Failures, failed
from loramux_adapters.residency.pins import Pins
from loramux_adapters.residency.ports import Lease, Loader, PoolObserver, PoolView, ResidentView
from loramux_adapters.residency.wait_queue import Turns

_FULL = "Every place for adapters in the engine is in use; try again later."


@dataclass(eq=False, slots=True)
class _Place:
    """One version's place in the engine's host memory."""

    arrival: asyncio.Task[None]
    leases: int = 0
    used: int = 0
    is_filled: bool = False
    is_doomed: bool = False


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
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    failures: Failures = field(init=False)
    pins: Pins = field(init=False)
    _served: Counter[VersionId] = field(default_factory=Counter)
    _places: dict[VersionId, _Place] = field(default_factory=dict)
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)
    _waiting: Turns[_Place] = field(default_factory=Turns)
    _uses: int = 0

    def __post_init__(self) -> None:
        most = max(0, min(self.slots, self.capacity) - 1)
        self.failures = Failures(self.clock)
        self.pins = Pins(self.loader, self._bring, self.is_resident, most, self.sleep)

    @property
    def has_room(self) -> bool:
        """Whether one more version could be loaded without another one leaving."""
        return len(self._places) < self.capacity

    def is_resident(self, version: VersionId) -> bool:
        """Whether the version is in the engine's host memory now."""
        place = self._places.get(version)
        return place is not None and place.is_filled

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
        if served:
            self._served[version] += 1
        return lease

    async def prefetch(self, version: VersionId) -> None:
        """Bring the version in without holding it; raises as `lease` does, but at once if every place is held."""
        if version not in self._places and isinstance(self._plan(), residency.Wait):
            raise NoAdapterCapacity(_FULL)
        await self._bring(version)

    def check_pins(self, versions: Set[VersionId]) -> None:
        """Raise PinLimit if not all of these can be pinned."""
        self.pins.check(versions)

    def pin(self, versions: Set[VersionId]) -> None:
        """Keep exactly these from now on, as many as can be; those that are missing are loaded in the background."""
        for version in versions & self._places.keys():
            self._places[version].is_doomed = False  # it was removed and is back, before its last lease was
        self.pins.want(versions)
        self._serve_waiting()

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
            ResidentView(version, place.leases, not place.is_filled, version in self.pins.wanted, version in in_slots)
            for version, place in self._places.items()
        )
        return PoolView(self.capacity, self.slots, len(self._waiting), residents, self.failures.pauses())

    def discard(self, version: VersionId) -> None:
        """Take the version out of the engine: now, or when its last lease is released. It is not pinned any more."""
        self.failures.forget(version)
        self._served.pop(version, None)
        self.pins.want(self.pins.wanted - {version})
        place = self._places.get(version)
        if place is not None:
            place.is_doomed = True
            self._freed(version, place)

    async def _bring(self, version: VersionId) -> None:
        (await self._lease(version)).release()

    async def _lease(self, version: VersionId) -> Lease:
        asked, cold = self.clock(), not self.is_resident(version)
        place = self._held(version) if version in self._places else await self._turn(version)
        release = self._release_of(version, place)
        try:
            await asyncio.shield(place.arrival)
        except (asyncio.CancelledError, AdapterError):
            release()
            raise
        except Exception as error:
            release()
            raise failed(version, self.failures.pause(version)) from error
        return Lease(version, cold, self.clock() - asked, release)

    async def _turn(self, version: VersionId) -> _Place:
        """Wait until there is a place for the version, with a hold on it; its load has begun then."""
        self.check(version)
        turn = self._waiting.join(version)
        self._serve_waiting()
        try:
            async with asyncio.timeout(self.max_wait):
                return await self._waiting.wait(turn, give_back=lambda place: self._let_go(version, place))
        except TimeoutError:
            raise NoAdapterCapacity(_FULL) from None

    def _serve_waiting(self) -> None:
        """Begin the loads that are waited for, as far as there are places: to be called whenever one may be free."""
        while (version := self._waiting.first) and isinstance(action := self._plan(), residency.Load):
            self._begin_load(version, action.evict)
            self._waiting.serve(version, lambda: self._held(version))

    def _plan(self) -> residency.Load | residency.Wait:
        pinned = self.pins.wanted
        residents = {
            version: residency.Resident(place.used, place.leases, not place.is_filled, version in pinned)
            for version, place in self._places.items()
        }
        return residency.plan(residents, self.capacity)

    def _begin_load(self, version: VersionId, victim: VersionId | None) -> None:
        if victim is not None:
            self._evict(victim, "capacity")
        arrival = asyncio.create_task(self._load(version, set(self._leaving)))
        arrival.add_done_callback(_retrieved)
        self._places[version] = _Place(arrival)
        self.observer.resident(len(self._places))

    async def _load(self, version: VersionId, leaving: set[asyncio.Task[None]]) -> None:
        """Load when all that leave have left: the engine never holds more than `capacity`."""
        place, began = self._places[version], self.clock()
        try:
            if leaving:
                await asyncio.wait(leaving)
            await self.loader.load(version)
        except BaseException as error:
            self.observer.loaded(version, self.clock() - began, ok=False)
            self._failed(version, place, error)
            raise
        else:
            self.observer.loaded(version, self.clock() - began, ok=True)
            self._arrived(version, place)
        finally:
            self._freed(version, place)

    def _arrived(self, version: VersionId, place: _Place) -> None:
        place.is_filled = True
        self.failures.forget(version)
        self.pins.arrived(version)

    def _failed(self, version: VersionId, place: _Place, error: BaseException) -> None:
        del self._places[version]
        self.observer.resident(len(self._places))
        if isinstance(error, StoreError):
            self.on_damage(version, error.message)
        elif isinstance(error, Exception) and not isinstance(error, AdapterError) and not place.is_doomed:
            self.failures.remember(version)

    def _evict(self, version: VersionId, reason: str) -> None:
        del self._places[version]
        self.observer.evicted(version, reason)
        self.observer.resident(len(self._places))
        task = asyncio.create_task(self.loader.unload(version))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        task.add_done_callback(lambda _: self.pins.left(version))

    def _held(self, version: VersionId) -> _Place:
        """The version's place, with one more hold on it."""
        place = self._places[version]
        self._uses += 1
        place.used = self._uses
        place.leases += 1
        return place

    def _release_of(self, version: VersionId, place: _Place) -> Callable[[], None]:
        is_held = True

        def release() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._let_go(version, place)

        return release

    def _let_go(self, version: VersionId, place: _Place) -> None:
        place.leases -= 1
        self._freed(version, place)

    def _freed(self, version: VersionId, place: _Place) -> None:
        """Take out what was only waiting to be idle, and see to those who wait for a place."""
        if place.is_doomed and place.is_filled and not place.leases and self._places.get(version) is place:
            self._evict(version, "removed")
        self._serve_waiting()


def _retrieved(load: asyncio.Task[None]) -> None:
    """Keep asyncio from reporting an error that nobody waits for any more: the observer was told of it."""
    if not load.cancelled():
        load.exception()
