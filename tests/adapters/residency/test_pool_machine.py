"""Random sequences of pool calls: leased versions are loaded, pinned ones stay, and nobody waits without need."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import AdapterLoadingFailed, NoAdapterCapacity, StoreError
from loramux_adapters.models import VersionId
from loramux_adapters.residency.backoff import MAX_DELAY
from loramux_adapters.residency.ports import Lease
from tests.helpers.fake_pool_loader import RecordingObserver, pool_of, settle, version, violations

VERSIONS = 6


@dataclass
class EvictionChecker(RecordingObserver):
    """An observer that checks that no pinned or leased version is evicted."""

    pinned: frozenset[VersionId] = frozenset()
    leased: frozenset[VersionId] = frozenset()

    def evicted(self, version: VersionId, reason: str) -> None:
        super().evicted(version, reason)
        if version in self.leased or (reason == "capacity" and version in self.pinned):
            violations.append(f"{version} was evicted although it was held")


class PoolModel:
    """A pool, its users, and the invariants that must hold for them."""

    def __init__(self, capacity: int, slots: int) -> None:
        self.capacity, self.max_pins = capacity, capacity - 1
        self.observer = EvictionChecker()
        self.pool, self.loader, _ = pool_of(capacity, slots)
        self.pool.on_corrupt_files(self.quarantine)
        self.pool.observer = self.observer
        self.requests: list[asyncio.Task[Lease]] = []
        self.prefetches: list[asyncio.Task[None]] = []
        self.leases: list[Lease] = []

    async def act(self, action: str, number: int) -> None:
        await getattr(self, action)(number)
        self.check_leases()

    async def lease(self, number: int) -> None:
        self.requests.append(asyncio.create_task(self.pool.lease(version(number))))

    async def prefetch(self, number: int) -> None:
        task = asyncio.create_task(self.pool.prefetch(version(number)))
        task.add_done_callback(lambda task: task.exception())
        self.prefetches.append(task)

    async def release(self, number: int) -> None:
        if self.leases:
            lease = self.leases.pop(number % len(self.leases))
            self.check_leases()
            lease.release()

    async def cancel(self, number: int) -> None:
        if self.requests:
            self.requests[number % len(self.requests)].cancel()

    async def discard(self, number: int) -> None:
        self.loader.backoffs.pop(version(number), None)
        if version(number) in self.pool._residents:
            self.loader.forgiven.add(version(number))
        self.observer.pinned -= {version(number)}
        self.pool.discard(version(number))

    async def pin(self, number: int) -> None:
        wanted = {version(number), version((number + 1) % VERSIONS)}
        self.observer.pinned = frozenset(sorted(wanted)[: self.max_pins])
        self.pool.pin(wanted)

    async def unpin(self, _: int) -> None:
        self.observer.pinned = frozenset()
        self.pool.pin(set())

    async def break_(self, number: int) -> None:
        self.loader.broken.add(version(number))

    async def corrupt(self, number: int) -> None:
        self.loader.corrupt.add(version(number))

    async def repair(self, _: int) -> None:
        self.loader.broken.clear()
        self.loader.corrupt.clear()

    async def later(self, number: int) -> None:
        self.loader.clock.advance(number)

    async def slow(self, number: int) -> None:
        self.loader.turns = number % 3

    async def step(self, _: int) -> None:
        await asyncio.sleep(0)

    async def settle(self, _: int) -> None:
        await settle()
        self.check_leases()
        self.check_waiting()

    def quarantine(self, corrupt: VersionId, _: str) -> None:
        """Do what the adapter service does on quarantine."""
        self.observer.pinned -= {corrupt}
        self.pool.discard(corrupt)

    def check_leases(self) -> None:
        """Collect the granted leases, and check that their versions are loaded."""
        for request in [request for request in self.requests if request.done()]:
            self.requests.remove(request)
            if not request.cancelled() and not request.exception():
                self.leases.append(request.result())
            elif not request.cancelled():
                assert isinstance(request.exception(), AdapterLoadingFailed | NoAdapterCapacity | StoreError)
        self.observer.leased = frozenset(lease.version for lease in self.leases)
        assert self.observer.leased <= self.loader.held
        assert not violations

    def check_waiting(self) -> None:
        """When nothing changes any more, requests only wait if all residents are leased or pinned."""
        held = self.observer.leased | self.observer.pinned
        waiting_for = self.pool._queue._waiters.values()
        assert len(self.requests) <= len(waiting_for)
        if waiting_for:
            assert self.loader.held <= held
            assert len(self.loader.held) == self.capacity
            assert not set(waiting_for) & self.loader.held
        for missing in self.observer.pinned - self.loader.held:
            assert missing in waiting_for or missing in self.pool.backoff.backed_off()

    async def end(self) -> None:
        """Release and repair everything and let time pass: then the pins must be loaded and leases granted."""
        await self.repair(0)
        for _ in range(len(self.requests) + len(self.leases)):
            await settle()
            self.check_leases()
            await self.release(0)
        assert not self.requests
        self.loader.clock.advance(MAX_DELAY)
        await self.settle(0)
        await asyncio.wait_for(asyncio.gather(*self.prefetches, return_exceptions=True), 30)
        assert self.observer.pinned <= self.loader.held
        assert len(self.loader.held) == self.observer.count <= self.capacity
        lease = await asyncio.wait_for(self.pool.lease(version(99)), 30)
        assert lease.version in self.loader.held


COMMON = ["step", "step", "lease", "lease", "lease", "release", "release", "settle", "settle", "unpin"]
RARE = ["cancel", "discard", "pin", "prefetch", "break_", "corrupt", "repair", "later", "slow"]
actions = st.tuples(st.sampled_from(COMMON + RARE), st.integers(0, VERSIONS - 1))


SEQUENCES = given(st.lists(actions, min_size=40, max_size=120), st.integers(1, 4), st.integers(1, 4))


@SEQUENCES
@settings(max_examples=25)
def test_in_any_sequence_of_calls_leases_are_loaded_pins_stay_and_nobody_waits_in_vain(
    sequence: list[tuple[str, int]], capacity: int, slots: int
) -> None:
    violations.clear()
    asyncio.run(run(sequence, capacity, slots))


@pytest.mark.slow
@SEQUENCES
@settings(max_examples=400)
def test_the_same_holds_in_many_more_sequences(sequence: list[tuple[str, int]], capacity: int, slots: int) -> None:
    violations.clear()
    asyncio.run(run(sequence, capacity, slots))


async def run(sequence: list[tuple[str, int]], capacity: int, slots: int) -> None:
    model = PoolModel(capacity, slots)
    for action, number in sequence:
        await model.act(action, number)
    await model.end()
