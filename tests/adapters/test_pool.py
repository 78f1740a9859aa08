import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import AdapterLoadingFailed, NoAdapterCapacity, PinLimit, StoreError, VersionNotFound
from loramux_adapters.failures import LONGEST_PAUSE
from loramux_adapters.pool import AdapterPool
from loramux_adapters.pool_ports import Lease
from loramux_adapters.records import AdapterName, Digest, VersionId


def version(number: int) -> VersionId:
    return VersionId(AdapterName(f"a{number}"), Digest(f"{number:012x}"))


A, B, C = version(1), version(2), version(3)


@dataclass
class EngineMemory:
    """A loader that holds the pool to what the engine can bear."""

    capacity: int
    held: set[VersionId] = field(default_factory=set)
    loads: Counter[VersionId] = field(default_factory=Counter)
    broken: set[VersionId] = field(default_factory=set)
    damaged: set[VersionId] = field(default_factory=set)
    pinned: set[VersionId] = field(default_factory=set)
    gate: asyncio.Event | None = None
    turns: int = 1

    async def load(self, version: VersionId) -> None:
        self.loads[version] += 1
        await self._work()
        if version in self.broken:
            raise OSError("unreadable")
        if version in self.damaged:
            raise StoreError("changed")
        assert version not in self.held, "loaded twice"
        self.held.add(version)
        assert len(self.held) <= self.capacity, "the engine would evict by itself"

    async def unload(self, version: VersionId) -> None:
        await self._work()
        self.held.remove(version)
        self.pinned.discard(version)

    async def pin(self, version: VersionId, *, pinned: bool) -> None:
        await self._work()
        assert version in self.held, "only what is there can be pinned"
        (self.pinned.add if pinned else self.pinned.discard)(version)

    async def slots(self) -> set[VersionId]:
        return set(sorted(self.held)[:1])

    async def _work(self) -> None:
        if self.gate:
            await self.gate.wait()
        for _ in range(self.turns):
            await asyncio.sleep(0)


@dataclass
class Observed:
    loads: list[tuple[VersionId, bool]] = field(default_factory=list)
    evictions: list[tuple[VersionId, str]] = field(default_factory=list)
    count: int = 0

    def loaded(self, version: VersionId, seconds: float, *, ok: bool) -> None:
        assert seconds >= 0
        self.loads.append((version, ok))

    def evicted(self, version: VersionId, reason: str) -> None:
        self.evictions.append((version, reason))

    def resident(self, count: int) -> None:
        self.count = count


def pool_of(capacity: int, slots: int = 9, **options: Any) -> tuple[AdapterPool, EngineMemory, Observed]:
    memory, observed = EngineMemory(capacity), Observed()
    return AdapterPool(memory, capacity, observed, slots, **options), memory, observed


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_lease_is_given_when_the_version_is_in_the_engine_and_not_before() -> None:
    pool, memory, _ = pool_of(2)
    memory.gate = asyncio.Event()
    waiting = asyncio.create_task(pool.lease(A))
    await settle()
    assert not waiting.done()
    assert not pool.is_resident(A)
    memory.gate.set()
    lease = await waiting
    assert A in memory.held
    assert lease.cold
    assert lease.waited > 0


async def test_a_resident_version_is_leased_warm_and_without_a_load() -> None:
    pool, memory, _ = pool_of(2)
    (await pool.lease(A)).release()
    assert not (await pool.lease(A)).cold
    assert memory.loads[A] == 1


async def test_a_thousand_requests_for_one_cold_version_load_it_once() -> None:
    pool, memory, observed = pool_of(2)
    leases = await asyncio.gather(*(pool.lease(A) for _ in range(1000)))
    assert memory.loads[A] == 1
    assert observed.loads == [(A, True)]
    assert len(leases) == 1000


async def test_the_least_recently_leased_version_makes_room() -> None:
    pool, memory, observed = pool_of(2)
    for wanted in (A, B, A, C):
        (await pool.lease(wanted)).release()
    assert memory.held == {A, C}
    assert observed.evictions == [(B, "capacity")]
    assert observed.count == 2


async def test_a_leased_version_never_leaves() -> None:
    pool, memory, _ = pool_of(1, max_wait=0.01)
    lease = await pool.lease(A)
    with pytest.raises(NoAdapterCapacity):
        await pool.lease(B)
    assert memory.held == {A}
    lease.release()
    await pool.lease(B)
    assert memory.held == {B}


async def test_releasing_twice_counts_once() -> None:
    pool, _, _ = pool_of(1, max_wait=0.01)
    first, second = await pool.lease(A), await pool.lease(A)
    first.release()
    first.release()
    with pytest.raises(NoAdapterCapacity):
        await pool.lease(B)
    second.release()
    assert (await pool.lease(B)).version == B


async def test_those_who_wait_are_served_in_the_order_they_came() -> None:
    pool, _, _ = pool_of(1)
    held = await pool.lease(A)
    order: list[int] = []

    async def use(number: int) -> None:
        lease = await pool.lease(version(number))
        order.append(number)
        lease.release()

    tasks = [asyncio.create_task(use(number)) for number in range(10, 20)]
    await settle()
    held.release()
    await asyncio.gather(*tasks)
    assert order == list(range(10, 20))


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    pool, _, _ = pool_of(1)
    held = await pool.lease(A)
    first = asyncio.create_task(pool.lease(B))
    await settle()
    held.release()
    second = asyncio.create_task(pool.lease(C))  # asks while the place is free, and B's turn has come
    lease = await first
    assert not second.done()
    lease.release()
    assert (await second).version == C


async def test_beyond_the_queues_length_a_request_is_refused_at_once() -> None:
    pool, _, _ = pool_of(1, max_waiting=2)
    await pool.lease(A)
    waiting = [asyncio.create_task(pool.lease(version(number))) for number in (10, 11)]
    await settle()
    with pytest.raises(NoAdapterCapacity):
        pool.check(B)
    with pytest.raises(NoAdapterCapacity):
        await pool.lease(B)
    pool.check(A)  # what is resident needs no place
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    pool.check(B)


async def test_a_load_that_fails_is_told_to_all_who_wait_and_frees_its_place() -> None:
    pool, memory, observed = pool_of(1)
    memory.broken.add(A)
    results = await asyncio.gather(*(pool.lease(A) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, AdapterLoadingFailed) for result in results)
    assert observed.loads == [(A, False)]
    assert (await pool.lease(B)).version == B


async def test_a_client_that_hangs_up_does_not_take_the_load_from_the_others() -> None:
    pool, memory, _ = pool_of(1)
    memory.gate = asyncio.Event()
    first, second = asyncio.create_task(pool.lease(A)), asyncio.create_task(pool.lease(A))
    await settle()
    first.cancel()
    await settle()
    memory.gate.set()
    assert (await second).version == A
    assert memory.loads[A] == 1


async def test_a_version_that_is_still_loading_is_not_evicted_when_its_only_client_hangs_up() -> None:
    pool, memory, _ = pool_of(1)
    memory.gate = asyncio.Event()
    first = asyncio.create_task(pool.lease(A))
    await settle()
    first.cancel()
    second = asyncio.create_task(pool.lease(B))
    await settle()
    memory.gate.set()
    assert (await second).version == B
    assert memory.held == {B}


async def test_a_cancelled_turn_goes_to_the_next_in_line() -> None:
    pool, _, _ = pool_of(1)
    held = await pool.lease(A)
    first, second = asyncio.create_task(pool.lease(B)), asyncio.create_task(pool.lease(C))
    await settle()
    held.release()
    first.cancel()
    assert (await asyncio.wait_for(second, 30)).version == C


async def test_a_discarded_version_leaves_when_its_last_lease_does() -> None:
    pool, memory, observed = pool_of(2)
    lease = await pool.lease(A)
    pool.discard(A)
    await settle()
    assert memory.held == {A}
    lease.release()
    await settle()
    assert memory.held == set()
    assert observed.evictions == [(A, "removed")]
    pool.discard(B)  # never was there


async def test_a_version_that_is_asked_for_again_while_it_leaves_is_loaded_after_it_left() -> None:
    pool, memory, _ = pool_of(1)
    (await pool.lease(A)).release()
    memory.turns = 5
    (await pool.lease(B)).release()
    leases = await asyncio.gather(pool.lease(B), return_exceptions=False)
    leases[0].release()
    assert (await pool.lease(A)).version == A
    assert memory.held == {A}


async def test_what_failed_is_left_alone_for_a_while_that_doubles_and_evicts_nobody_meanwhile() -> None:
    clock = Clock()
    pool, memory, observed = pool_of(1, clock=clock)
    (await pool.lease(B)).release()
    memory.broken.add(A)
    for attempt, pause in enumerate([1, 2, 4, 8], start=1):
        results = await asyncio.gather(*(pool.lease(A) for _ in range(64)), return_exceptions=True)
        assert all(isinstance(result, AdapterLoadingFailed) for result in results)
        assert memory.loads[A] == attempt
        (await pool.lease(B)).release()
        clock.now += pause - 0.5
        with pytest.raises(AdapterLoadingFailed) as told:
            pool.check(A)
        assert told.value.retry_after == 0.5
        with pytest.raises(AdapterLoadingFailed):
            await pool.lease(A)
        assert memory.held == {B}
        clock.now += 0.5
    assert [version for version, _ in observed.evictions] == [B, B, B, B]
    memory.broken.clear()
    await pool.lease(A)
    assert pool.failures.pauses() == {}


async def test_the_pause_has_an_end_and_a_new_chance_begins_anew() -> None:
    clock = Clock()
    pool, memory, _ = pool_of(1, clock=clock)
    memory.broken.add(A)
    for _ in range(20):
        clock.now += LONGEST_PAUSE
        with pytest.raises(AdapterLoadingFailed):
            await pool.lease(A)
    assert pool.failures.pauses() == {A: LONGEST_PAUSE}
    memory.broken.clear()
    pool.forgive(A)
    await pool.lease(A)


async def test_damage_is_told_once_and_as_what_it_is() -> None:
    told: list[tuple[VersionId, str]] = []
    pool, memory, _ = pool_of(1, on_damage=lambda version, reason: told.append((version, reason)))
    memory.damaged.add(A)
    results = await asyncio.gather(*(pool.lease(A) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreError] * 3
    assert told == [(A, "changed")]
    assert pool.failures.pauses() == {}


async def test_a_version_that_was_removed_while_it_was_waited_for_is_not_held_against_it() -> None:
    pool, memory, _ = pool_of(1)

    async def gone(_: VersionId) -> None:
        raise VersionNotFound("gone")

    memory.load = gone  # type: ignore[method-assign]
    with pytest.raises(VersionNotFound):
        await pool.lease(A)
    assert pool.failures.pauses() == {}


async def test_pinned_versions_are_loaded_and_stay_and_become_ordinary_again() -> None:
    pool, memory, _ = pool_of(3)
    pool.pin({A, B})
    await settle()
    assert memory.held == memory.pinned == {A, B}
    for number in range(10, 15):
        (await pool.lease(version(number))).release()
        assert {A, B} <= memory.held
    pool.pin({B})
    await settle()
    assert memory.pinned == {B}
    for number in range(10, 15):
        (await pool.lease(version(number))).release()
    assert A not in memory.held
    assert B in memory.held


async def test_a_resident_version_is_pinned_where_it_is() -> None:
    pool, memory, _ = pool_of(2)
    (await pool.lease(A)).release()
    pool.pin({A})
    await settle()
    assert memory.pinned == {A}
    assert memory.loads[A] == 1


@pytest.mark.parametrize(("capacity", "slots"), [(8, 3), (3, 8)])
async def test_pins_leave_one_place_and_one_slot_to_the_others(capacity: int, slots: int) -> None:
    pool, memory, _ = pool_of(capacity, slots)
    pool.check_pins({A, B})
    with pytest.raises(PinLimit, match="MAX_LORAS"):
        pool.check_pins({A, B, C})
    pool.pin({A, B, C})  # as a registry says that was written with more room
    await settle()
    assert len(memory.pinned) == 2
    (await asyncio.wait_for(pool.lease(version(9)), 30)).release()


async def test_a_pin_that_can_not_be_loaded_harms_nobody() -> None:
    pool, memory, _ = pool_of(2)
    memory.broken.add(A)
    pool.pin({A})
    await settle()
    assert (await pool.lease(B)).version == B
    assert set(pool.failures.pauses()) == {A}


async def test_what_is_prefetched_is_warm_and_was_not_used() -> None:
    pool, memory, _ = pool_of(2)
    await pool.prefetch(A)
    assert pool.take_uses() == {}
    lease = await pool.lease(A)
    assert not lease.cold
    assert pool.take_uses() == {A: 1}
    assert pool.take_uses() == {}


async def test_a_prefetch_takes_no_place_that_is_in_use() -> None:
    pool, memory, _ = pool_of(1, max_wait=0.01)
    await pool.lease(A)
    with pytest.raises(NoAdapterCapacity):
        await pool.prefetch(B)
    assert not pool.has_room


async def test_the_view_shows_what_is_where() -> None:
    pool, memory, _ = pool_of(3, slots=2, max_wait=0.01)
    await pool.lease(A)
    pool.pin({B})
    await settle()
    memory.broken.add(C)
    with pytest.raises(AdapterLoadingFailed):
        await pool.lease(C)
    memory.gate = asyncio.Event()
    loading = asyncio.create_task(pool.lease(version(9)))
    await settle()
    view = await pool.view()
    shown = {(r.version, r.leases, r.loading, r.pinned, r.in_slot) for r in view.residents}
    assert shown == {(A, 1, False, False, True), (B, 0, False, True, False), (version(9), 1, True, False, False)}
    assert (view.capacity, view.slots, view.waiting, set(view.broken)) == (3, 2, 0, {C})
    memory.gate.set()
    await loading


ACTIONS = ["lease", "release", "cancel", "discard", "yield", "break", "damage", "mend", "pin", "prefetch", "later"]
actions = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5)), max_size=60)


@given(actions, st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_whatever_is_asked_in_whatever_order_leases_are_real_and_nobody_waits_for_ever(
    script: list[tuple[str, int]], capacity: int, slots: int
) -> None:
    asyncio.run(play(script, capacity, slots))


async def play(script: list[tuple[str, int]], capacity: int, slots: int) -> None:
    clock = Clock()
    pool, memory, observed = pool_of(capacity, slots, clock=clock)
    tasks: list[asyncio.Task[Lease]] = []
    prefetches: list[asyncio.Task[None]] = []
    for action, number in script:
        evicted = len(observed.evictions)
        match action:
            case "lease":
                tasks.append(asyncio.create_task(pool.lease(version(number))))
            case "prefetch":
                prefetches.append(asyncio.create_task(pool.prefetch(version(number))))
            case "cancel" if tasks:
                tasks[number % len(tasks)].cancel()
            case "release" if tasks:
                release(tasks[number % len(tasks)])
            case "discard":
                pool.discard(version(number))
            case "pin":
                pool.pin({version(number), version(number + 1)} if number else set())
            case "break":
                memory.broken.add(version(number))
            case "damage":
                memory.damaged.add(version(number))
            case "mend":
                memory.broken.clear()
                memory.damaged.clear()
            case "later":
                clock.now += number
            case _:
                await asyncio.sleep(0)
        for gone, reason in observed.evictions[evicted:]:
            assert reason == "removed" or gone not in pool._pinned
        for task in tasks:
            if task.done() and not task.cancelled() and not task.exception() and id(task) not in released(tasks):
                assert task.result().version in memory.held
    memory.broken.clear()
    memory.damaged.clear()
    for _ in range(200):
        for task in tasks:
            release(task)
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*tasks, *prefetches, return_exceptions=True), 30)
    assert len(memory.held) <= capacity
    assert memory.pinned <= pool._pinned
    clock.now += LONGEST_PAUSE
    final = await asyncio.wait_for(pool.lease(version(9)), 30)
    assert final.version in memory.held


def release(task: asyncio.Task[Lease]) -> None:
    if task.done() and not task.cancelled() and not task.exception():
        task.result().release()
        setattr(task, "was_released", True)  # noqa: B010


def released(tasks: list[asyncio.Task[Lease]]) -> set[int]:
    return {id(task) for task in tasks if getattr(task, "was_released", False)}
