"""Whatever is asked of the pool in whatever order: leases are real, pins stay, and nobody waits for what is free."""

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import AdapterLoadingFailed, NoAdapterCapacity, StoreError
from loramux_adapters.models import VersionId
from loramux_adapters.residency.backoff import LONGEST_PAUSE
from loramux_adapters.residency.ports import Lease
from tests.helpers.fake_pool_loader import Observed, pool_of, settle, version, wrongs

VERSIONS = 6


@dataclass
class Watched(Observed):
    """An observer that holds evictions against what is pinned and leased at that moment."""

    pinned: frozenset[VersionId] = frozenset()
    leased: frozenset[VersionId] = frozenset()

    def evicted(self, version: VersionId, reason: str) -> None:
        super().evicted(version, reason)
        if version in self.leased or (reason == "capacity" and version in self.pinned):
            wrongs.append(f"{version} left though it was held")


class Play:
    """A pool, those who use it, and what they must find."""

    def __init__(self, capacity: int, slots: int) -> None:
        self.capacity, self.most_pins = capacity, min(capacity, slots) - 1
        self.watched = Watched()
        self.pool, self.memory, _ = pool_of(capacity, slots, on_damage=self.on_damage)
        self.pool.observer = self.watched
        self.requests: list[asyncio.Task[Lease]] = []
        self.prefetches: list[asyncio.Task[None]] = []
        self.leases: list[Lease] = []

    async def act(self, action: str, number: int) -> None:
        await getattr(self, action)(number)
        self.look()

    async def lease(self, number: int) -> None:
        self.requests.append(asyncio.create_task(self.pool.lease(version(number))))

    async def prefetch(self, number: int) -> None:
        task = asyncio.create_task(self.pool.prefetch(version(number)))
        task.add_done_callback(lambda task: task.exception())
        self.prefetches.append(task)

    async def release(self, number: int) -> None:
        if self.leases:
            lease = self.leases.pop(number % len(self.leases))
            self.look()
            lease.release()

    async def cancel(self, number: int) -> None:
        if self.requests:
            self.requests[number % len(self.requests)].cancel()

    async def discard(self, number: int) -> None:
        self.memory.rests.pop(version(number), None)
        if version(number) in self.pool._places:
            self.memory.pardoned.add(version(number))
        self.watched.pinned -= {version(number)}
        self.pool.discard(version(number))

    async def pin(self, number: int) -> None:
        wanted = {version(number), version((number + 1) % VERSIONS)}
        self.watched.pinned = frozenset(sorted(wanted)[: self.most_pins])
        self.pool.pin(wanted)

    async def unpin(self, _: int) -> None:
        self.watched.pinned = frozenset()
        self.pool.pin(set())

    async def break_(self, number: int) -> None:
        self.memory.broken.add(version(number))

    async def damage(self, number: int) -> None:
        self.memory.damaged.add(version(number))

    async def mend(self, _: int) -> None:
        self.memory.broken.clear()
        self.memory.damaged.clear()

    async def later(self, number: int) -> None:
        self.memory.clock.advance(number)

    async def slow(self, number: int) -> None:
        self.memory.steps = number % 3

    async def step(self, _: int) -> None:
        await asyncio.sleep(0)

    async def settle(self, _: int) -> None:
        await settle()
        self.look()
        self.nobody_waits_in_vain()

    def on_damage(self, damaged: VersionId, _: str) -> None:
        """Do as a library does that puts the version in quarantine."""
        self.watched.pinned -= {damaged}
        self.pool.discard(damaged)

    def look(self) -> None:
        """Take the leases that were given, and check that they are real."""
        for request in [request for request in self.requests if request.done()]:
            self.requests.remove(request)
            if not request.cancelled() and not request.exception():
                self.leases.append(request.result())
            elif not request.cancelled():
                assert isinstance(request.exception(), AdapterLoadingFailed | NoAdapterCapacity | StoreError)
        self.watched.leased = frozenset(lease.version for lease in self.leases)
        assert self.watched.leased <= self.memory.held
        assert not wrongs

    def nobody_waits_in_vain(self) -> None:
        """When nothing moves any more, who still waits finds every place held."""
        held = self.watched.leased | self.watched.pinned
        waited_for = self.pool._waiting._waiting.values()
        assert len(self.requests) <= len(waited_for)
        if waited_for:
            assert self.memory.held <= held
            assert len(self.memory.held) == self.capacity
            assert not set(waited_for) & self.memory.held
        assert self.memory.pinned == self.watched.pinned & self.memory.held
        for missing in self.watched.pinned - self.memory.held:
            assert missing in waited_for or missing in self.pool.failures.pauses()

    async def end(self) -> None:
        """Everybody leaves, everything is mended, and time goes by: then all is as it should be."""
        await self.mend(0)
        for _ in range(len(self.requests) + len(self.leases)):
            await settle()
            self.look()
            await self.release(0)
        assert not self.requests
        self.memory.clock.advance(LONGEST_PAUSE)
        await self.settle(0)
        await asyncio.wait_for(asyncio.gather(*self.prefetches, return_exceptions=True), 30)
        assert self.memory.pinned == self.watched.pinned
        assert len(self.memory.held) == self.watched.count <= self.capacity
        lease = await asyncio.wait_for(self.pool.lease(version(99)), 30)
        assert lease.version in self.memory.held


OFTEN = ["step", "step", "lease", "lease", "lease", "release", "release", "settle", "settle", "unpin"]
SELDOM = ["cancel", "discard", "pin", "prefetch", "break_", "damage", "mend", "later", "slow"]
turns = st.tuples(st.sampled_from(OFTEN + SELDOM), st.integers(0, VERSIONS - 1))


@given(st.lists(turns, min_size=40, max_size=120), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_whatever_is_asked_leases_are_real_pins_stay_and_nobody_waits_in_vain(
    script: list[tuple[str, int]], capacity: int, slots: int
) -> None:
    wrongs.clear()
    asyncio.run(play(script, capacity, slots))


async def play(script: list[tuple[str, int]], capacity: int, slots: int) -> None:
    game = Play(capacity, slots)
    for action, number in script:
        await game.act(action, number)
    await game.end()
