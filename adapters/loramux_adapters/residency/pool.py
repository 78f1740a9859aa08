"""The pool of versions in the engine's host memory: single-flight loads, leases, evictions and pins.

All decisions are made between two awaits of one event loop, which serves as the lock; loads and unloads run outside it.
A load belongs to the pool, not to the request that triggered it: when that client disconnects, the load continues for
the other requests that wait for the same version.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field

from loramux_adapters.errors import AdapterError, NoAdapterCapacity, StoreError
from loramux_adapters.models import VersionId
from loramux_adapters.residency.backoff import LoadBackoff, loading_failed
from loramux_adapters.residency.pins import PinnedVersions
from loramux_adapters.residency.policy import LoadNow, ResidentState, WaitForRelease, plan_eviction
from loramux_adapters.residency.ports import Lease, Loader, PoolObserver, PoolView, ResidentView
from loramux_adapters.residency.wait_queue import WaitQueue

_FULL = (
    "The engine's host memory is full of adapters that are in use: retry later, or raise LORAMUX_ENGINE__MAX_CPU_LORAS."
)

CorruptFilesCallback = Callable[[VersionId, str], None]
"""Called with a version whose stored files are not what was accepted, and the reason."""


@dataclass(eq=False, slots=True)
class Resident:
    """A version that is in the engine's host memory, or being loaded into it."""

    load_task: asyncio.Task[None]
    leases: int = 0
    last_used: int = 0
    is_loaded: bool = False
    evict_on_release: bool = False


@dataclass(eq=False)
class AdapterPool:
    """Grants leases on versions, and keeps at most `capacity` of them in the engine, which has `slots` slots.

    While all residents are leased, requests wait first come, first served. A request is refused with NoAdapterCapacity
    if `max_waiting` requests wait already, or once it has waited for `max_wait` seconds.

    A version that failed to load is backed off. One with corrupt files is reported to `on_corrupt_files` instead.
    """

    loader: Loader
    capacity: int
    observer: PoolObserver
    slots: int
    max_waiting: int = 256
    max_wait: float = 60.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    backoff: LoadBackoff = field(init=False)
    pinned: PinnedVersions = field(init=False)
    _corrupt_files_callbacks: list[CorruptFilesCallback] = field(default_factory=list)
    _residents: dict[VersionId, Resident] = field(default_factory=dict)
    _unloading: set[asyncio.Task[None]] = field(default_factory=set)
    _queue: WaitQueue[Resident] = field(default_factory=WaitQueue)
    _use_sequence: int = 0

    def __post_init__(self) -> None:
        self.backoff = LoadBackoff(self.clock)
        self.pinned = PinnedVersions(self._bring_in, self.is_resident, max(0, self.capacity - 1), self.sleep)

    @property
    def has_free_capacity(self) -> bool:
        """Whether one more version could be loaded without an eviction."""
        return len(self._residents) < self.capacity

    def on_corrupt_files(self, callback: CorruptFilesCallback) -> None:
        """Register `callback` for versions whose files turn out to be corrupt when they are loaded."""
        self._corrupt_files_callbacks.append(callback)

    def is_resident(self, version: VersionId) -> bool:
        """Whether the version is in the engine's host memory now."""
        resident = self._residents.get(version)
        return resident is not None and resident.is_loaded

    def check(self, version: VersionId) -> None:
        """Check that a request for `version` could be served or could wait.

        Raises:
            AdapterLoadingFailed: the version is backed off.
            NoAdapterCapacity: the version is not resident, and the queue is full.
        """
        self.backoff.check(version)
        if version not in self._residents and len(self._queue) >= self.max_waiting:
            raise NoAdapterCapacity(_FULL)

    async def lease(self, version: VersionId) -> Lease:
        """Lease `version`, after loading it if necessary.

        Raises:
            AdapterLoadingFailed: the engine failed to load it, or it is backed off.
            StoreError: its files are not what was accepted.
            VersionNotFound: it was removed.
            NoAdapterCapacity: all residents stayed leased for `max_wait` seconds, or the queue is full.
        """
        requested_at, cold = self.clock(), not self.is_resident(version)
        resident = self._acquire(version) if version in self._residents else await self._wait_for_room(version)
        release = self._release_once(version, resident)
        try:
            await asyncio.shield(resident.load_task)
        except (asyncio.CancelledError, AdapterError):
            release()
            raise
        except Exception as error:
            release()
            raise loading_failed(version, self.backoff.retry_after(version)) from error
        return Lease(version, cold, self.clock() - requested_at, release)

    async def prefetch(self, version: VersionId) -> None:
        """Load the version without leasing it, and without waiting for a release.

        Raises:
            AdapterError: the same errors as `lease`; NoAdapterCapacity if all residents are leased now.
        """
        if version not in self._residents and isinstance(self._plan_eviction(), WaitForRelease):
            raise NoAdapterCapacity(_FULL)
        await self._bring_in(version)

    def check_pins(self, versions: Set[VersionId]) -> None:
        """Check that all of these can be pinned together.

        Raises:
            PinLimit: they are too many.
        """
        self.pinned.check(versions)

    def pin(self, versions: Set[VersionId]) -> None:
        """Replace the pinned versions, up to the limit; missing ones are loaded in the background."""
        for version in versions & self._residents.keys():
            self._residents[version].evict_on_release = False  # removed and added again before its last lease ended
        self.pinned.set_desired(versions)
        self._grant_waiting()

    def reset_backoff(self, version: VersionId) -> None:
        """Allow the version to be loaded again now, although its last load failed."""
        self.backoff.reset(version)

    async def view(self) -> PoolView:
        """Return the residents, their slots, and the versions that are backed off."""
        in_slots, pinned = await self.loader.slots(), self.pinned.desired
        residents = tuple(
            ResidentView(version, resident.leases, not resident.is_loaded, version in pinned, version in in_slots)
            for version, resident in self._residents.items()
        )
        return PoolView(self.capacity, self.slots, len(self._queue), residents, self.backoff.backed_off())

    def discard(self, version: VersionId) -> None:
        """Unpin the version and evict it: now, or when its last lease is released."""
        self.backoff.reset(version)
        self.pinned.set_desired(self.pinned.desired - {version})
        resident = self._residents.get(version)
        if resident is not None:
            resident.evict_on_release = True
            self._on_released(version, resident)

    async def _bring_in(self, version: VersionId) -> None:
        (await self.lease(version)).release()

    async def _wait_for_room(self, version: VersionId) -> Resident:
        """Wait until the version's load has started; the returned resident is acquired."""
        self.check(version)
        waiter = self._queue.enqueue(version)
        self._grant_waiting()
        try:
            async with asyncio.timeout(self.max_wait):
                return await self._queue.wait(waiter, release=lambda resident: self._release(version, resident))
        except TimeoutError:
            raise NoAdapterCapacity(_FULL) from None

    def _grant_waiting(self) -> None:
        """Start the loads at the head of the queue, as far as there is room: to be called whenever some may be free."""
        while (version := self._queue.first_waiting) and isinstance(action := self._plan_eviction(), LoadNow):
            self._start_load(version, action.evict)
            self._queue.grant(version, lambda: self._acquire(version))

    def _plan_eviction(self) -> LoadNow | WaitForRelease:
        pinned = self.pinned.desired
        residents = {
            version: ResidentState(resident.last_used, resident.leases, not resident.is_loaded, version in pinned)
            for version, resident in self._residents.items()
        }
        return plan_eviction(residents, self.capacity)

    def _start_load(self, version: VersionId, evict: VersionId | None) -> None:
        if evict is not None:
            self._evict(evict, "capacity")
        load_task = asyncio.create_task(self._load(version, set(self._unloading)))
        load_task.add_done_callback(_consume_exception)
        self._residents[version] = Resident(load_task)
        self.observer.resident(len(self._residents))

    async def _load(self, version: VersionId, unloading: set[asyncio.Task[None]]) -> None:
        """Load after the running unloads: the engine never holds more than `capacity`."""
        resident, started_at = self._residents[version], self.clock()
        try:
            if unloading:
                await asyncio.wait(unloading)
            await self.loader.load(version)
        except BaseException as error:
            self.observer.loaded(version, self.clock() - started_at, ok=False)
            self._on_load_failed(version, resident, error)
            raise
        else:
            self.observer.loaded(version, self.clock() - started_at, ok=True)
            self._on_loaded(version, resident)
        finally:
            self._on_released(version, resident)

    def _on_loaded(self, version: VersionId, resident: Resident) -> None:
        resident.is_loaded = True
        self.backoff.reset(version)

    def _on_load_failed(self, version: VersionId, resident: Resident, error: BaseException) -> None:
        del self._residents[version]
        self.observer.resident(len(self._residents))
        if isinstance(error, StoreError):
            for callback in self._corrupt_files_callbacks:
                callback(version, error.message)
        elif isinstance(error, Exception) and not isinstance(error, AdapterError) and not resident.evict_on_release:
            self.backoff.record_failure(version)

    def _evict(self, version: VersionId, reason: str) -> None:
        del self._residents[version]
        self.observer.evicted(version, reason)
        self.observer.resident(len(self._residents))
        task = asyncio.create_task(self.loader.unload(version))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    def _acquire(self, version: VersionId) -> Resident:
        """Add a lease to the version's resident."""
        resident = self._residents[version]
        self._use_sequence += 1
        resident.last_used = self._use_sequence
        resident.leases += 1
        return resident

    def _release_once(self, version: VersionId, resident: Resident) -> Callable[[], None]:
        is_released = False

        def release() -> None:
            nonlocal is_released
            if not is_released:
                is_released = True
                self._release(version, resident)

        return release

    def _release(self, version: VersionId, resident: Resident) -> None:
        resident.leases -= 1
        self._on_released(version, resident)

    def _on_released(self, version: VersionId, resident: Resident) -> None:
        """Evict a discarded version once it is idle, and grant room to waiting requests."""
        is_idle = resident.is_loaded and not resident.leases and self._residents.get(version) is resident
        if resident.evict_on_release and is_idle:
            self._evict(version, "removed")
        self._grant_waiting()


def _consume_exception(load: asyncio.Task[None]) -> None:
    """Keep asyncio from logging an unretrieved error: the observer has recorded it."""
    if not load.cancelled():
        load.exception()
