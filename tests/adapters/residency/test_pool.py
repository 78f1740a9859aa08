import asyncio
from collections.abc import Iterator

import pytest

from loramux_adapters.errors import AdapterLoadingFailed, NoAdapterCapacity, PinLimit, StoreError, VersionNotFound
from loramux_adapters.models import VersionId
from loramux_adapters.residency.backoff import LONGEST_PAUSE
from tests.helpers.fake_pool_loader import pool_of, settle, version, wrongs

A, B, C = version(1), version(2), version(3)


@pytest.fixture(autouse=True)
def nothing_goes_wrong() -> Iterator[None]:
    wrongs.clear()
    yield
    assert not wrongs


async def test_a_lease_is_given_when_the_version_is_in_the_engine_and_not_before() -> None:
    pool, memory, _ = pool_of(2)
    memory.gate = asyncio.Event()
    waiting = asyncio.create_task(pool.lease(A))
    await settle()
    assert not waiting.done()
    assert not pool.is_resident(A)
    memory.clock.advance(0.5)
    memory.gate.set()
    lease = await waiting
    assert A in memory.held
    assert lease.cold
    assert lease.waited == 0.5


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


async def test_those_whose_turn_came_in_vain_keep_their_order() -> None:
    pool, _, _ = pool_of(2)
    first, second = await pool.lease(A), await pool.lease(B)
    order: list[int] = []

    async def use(number: int) -> None:
        lease = await pool.lease(version(number))
        order.append(number)
        await settle()
        lease.release()

    tasks = [asyncio.create_task(use(number)) for number in range(10, 16)]
    await settle()
    first.release()
    second.release()  # two places are free, and one of them is taken again at once
    again = await pool.lease(A) if pool.is_resident(A) else await pool.lease(B)
    again.release()
    await asyncio.gather(*tasks)
    assert order == sorted(order)


async def test_who_waits_for_what_came_in_for_another_waits_no_longer() -> None:
    pool, memory, _ = pool_of(1)
    held = await pool.lease(A)
    first, other, second = (asyncio.create_task(pool.lease(wanted)) for wanted in (B, C, B))
    await settle()
    held.release()
    await settle()
    assert first.result().version == second.result().version == B
    assert not other.done()
    assert memory.loads[B] == 1
    first.result().release()
    second.result().release()
    assert (await other).version == C


async def test_many_who_waited_for_a_broken_version_cost_one_load() -> None:
    pool, memory, _ = pool_of(1)
    held = await pool.lease(A)
    memory.broken.add(B)
    memory.steps = 0
    waiting = [asyncio.create_task(pool.lease(B)) for _ in range(64)]
    last = asyncio.create_task(pool.lease(C))
    await settle()
    held.release()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, AdapterLoadingFailed) for result in results)
    assert memory.loads[B] == 1
    assert (await last).version == C


async def test_a_failed_load_that_nobody_waits_for_any_more_leaves_nothing_behind() -> None:
    pool, memory, observed = pool_of(1)
    memory.broken.add(A)
    memory.gate = asyncio.Event()
    first = asyncio.create_task(pool.lease(A))
    await settle()
    first.cancel()
    await settle()
    memory.gate.set()
    for _ in range(10):  # wherever in its end the load is
        await asyncio.sleep(0)
        asyncio.create_task(pool.lease(B)).add_done_callback(lambda task: task.result().release())
    await settle()
    assert memory.held == {B}
    assert observed.count == 1


async def test_an_engine_that_does_not_let_a_version_go_is_not_held_against_the_next_one() -> None:
    pool, memory, _ = pool_of(1)
    (await pool.lease(A)).release()

    async def stuck(_: VersionId) -> None:
        memory.held.clear()
        raise RuntimeError("already gone")

    memory.unload = stuck  # type: ignore[assignment, method-assign]
    assert (await pool.lease(B)).version == B


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
    memory.steps = 5
    (await pool.lease(B)).release()
    leases = await asyncio.gather(pool.lease(B), return_exceptions=False)
    leases[0].release()
    assert (await pool.lease(A)).version == A
    assert memory.held == {A}


async def test_what_failed_is_left_alone_for_a_while_that_doubles_and_evicts_nobody_meanwhile() -> None:
    pool, memory, observed = pool_of(1)
    (await pool.lease(B)).release()
    memory.broken.add(A)
    for attempt, pause in enumerate([1, 2, 4, 8], start=1):
        results = await asyncio.gather(*(pool.lease(A) for _ in range(64)), return_exceptions=True)
        assert all(isinstance(result, AdapterLoadingFailed) for result in results)
        assert memory.loads[A] == attempt
        (await pool.lease(B)).release()
        memory.clock.advance(pause - 0.5)
        with pytest.raises(AdapterLoadingFailed) as told:
            pool.check(A)
        assert told.value.retry_after == 0.5
        with pytest.raises(AdapterLoadingFailed):
            await pool.lease(A)
        assert memory.held == {B}
        memory.clock.advance(0.5)
    assert [version for version, _ in observed.evictions] == [B, B, B, B]
    memory.broken.clear()
    await pool.lease(A)
    assert pool.failures.pauses() == {}


async def test_the_pause_has_an_end_and_a_new_chance_begins_anew() -> None:
    pool, memory, _ = pool_of(1)
    memory.broken.add(A)
    for _ in range(20):
        memory.clock.advance(LONGEST_PAUSE)
        with pytest.raises(AdapterLoadingFailed):
            await pool.lease(A)
    assert pool.failures.pauses() == {A: LONGEST_PAUSE}
    memory.broken.clear()
    memory.rests.clear()
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


async def test_what_fails_after_it_was_discarded_is_not_left_alone() -> None:
    pool, memory, _ = pool_of(1)
    memory.broken.add(A)
    memory.gate = asyncio.Event()
    waiting = asyncio.create_task(pool.lease(A))
    await settle()
    pool.discard(A)
    memory.gate.set()
    with pytest.raises(AdapterLoadingFailed):
        await waiting
    assert pool.failures.pauses() == {}


async def test_a_version_that_was_removed_while_it_was_waited_for_is_not_held_against_it() -> None:
    pool, memory, _ = pool_of(1)

    async def gone(_: VersionId) -> None:
        raise VersionNotFound("gone")

    memory.load = gone  # type: ignore[assignment, method-assign]
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


async def test_a_pin_waits_its_turn_like_a_request() -> None:
    pool, memory, _ = pool_of(2)
    held = [await pool.lease(A), await pool.lease(B)]
    pool.pin({C})
    later = asyncio.create_task(pool.lease(version(9)))
    await settle()
    assert not memory.pinned
    held[0].release()
    await settle()
    assert memory.pinned == {C}
    assert not later.done()
    held[1].release()
    assert (await later).version == version(9)


async def test_a_pin_that_can_not_be_loaded_harms_nobody_and_is_tried_again_after_its_pause() -> None:
    pool, memory, _ = pool_of(2)
    memory.broken.add(A)
    pool.pin({A})
    await settle()
    assert (await pool.lease(B)).version == B
    assert set(pool.failures.pauses()) == {A}
    memory.clock.advance(1)
    await settle()
    assert memory.loads[A] == 2
    memory.broken.clear()
    memory.clock.advance(1.5)
    await settle()
    assert memory.loads[A] == 2
    memory.clock.advance(0.5)
    await settle()
    assert memory.pinned == {A}


async def test_a_pin_that_is_taken_back_is_not_tried_again() -> None:
    pool, memory, _ = pool_of(2)
    memory.broken.add(A)
    pool.pin({A})
    await settle()
    pool.pin(set())
    memory.clock.advance(LONGEST_PAUSE)
    await settle()
    assert memory.loads[A] == 1


async def test_a_place_that_is_not_pinned_any_more_goes_to_who_waits() -> None:
    pool, memory, _ = pool_of(2)
    pool.pin({A})
    await pool.lease(B)
    waiting = asyncio.create_task(pool.lease(C))
    await settle()
    assert memory.held == {A, B}
    pool.pin(set())
    assert (await asyncio.wait_for(waiting, 30)).version == C


async def test_all_places_that_come_free_at_once_are_given_at_once() -> None:
    pool, memory, _ = pool_of(3)
    pool.pin({A, B})
    await pool.lease(C)
    waiting = [asyncio.create_task(pool.lease(version(number))) for number in (10, 11)]
    await settle()
    memory.gate = asyncio.Event()
    pool.pin(set())
    assert pool.is_resident(C)
    assert {resident.version for resident in (await pool.view()).residents} == {C, version(10), version(11)}
    memory.gate.set()
    await asyncio.gather(*waiting)


async def test_pins_that_change_never_hold_all_slots() -> None:
    pool, memory, _ = pool_of(8, slots=3)
    for number in range(4):
        (await pool.lease(version(number))).release()
    pool.pin({version(0), version(1)})
    pool.pin({version(1), version(2)})
    await asyncio.sleep(0)
    pool.pin({version(2), version(3)})  # the engine's memory would note a third one
    await settle()
    assert memory.pinned == {version(2), version(3)}


async def test_a_version_that_arrives_after_its_pin_was_taken_back_is_not_kept() -> None:
    pool, memory, _ = pool_of(2)
    memory.gate = asyncio.Event()
    pool.pin({A})
    await settle()
    pool.pin(set())
    memory.gate.set()
    await settle()
    assert memory.held == {A}
    assert not memory.pinned


async def test_what_is_discarded_is_not_pinned_any_more() -> None:
    pool, memory, _ = pool_of(2)
    pool.pin({A})
    await settle()
    pool.discard(A)
    await settle()
    assert memory.held == set()
    pool.pin({A})
    await settle()
    assert memory.pinned == {A}


async def test_what_was_discarded_and_is_pinned_again_before_its_last_lease_stays() -> None:
    pool, memory, _ = pool_of(2)
    lease = await pool.lease(A)
    pool.discard(A)
    pool.pin({A})
    lease.release()
    await settle()
    assert memory.pinned == {A}
    assert memory.loads[A] == 1


async def test_what_is_prefetched_is_warm_and_was_not_used() -> None:
    pool, _, _ = pool_of(2)
    await pool.prefetch(A)
    assert pool.take_uses() == {}
    lease = await pool.lease(A)
    assert not lease.cold
    assert pool.take_uses() == {A: 1}
    assert pool.take_uses() == {}


async def test_a_prefetch_takes_no_place_that_is_in_use_and_does_not_wait_for_one() -> None:
    pool, _, _ = pool_of(1)
    lease = await pool.lease(A)
    await pool.prefetch(A)
    with pytest.raises(NoAdapterCapacity):
        await asyncio.wait_for(pool.prefetch(B), 5)
    assert not pool.has_room
    lease.release()
    await pool.prefetch(B)
    assert pool.is_resident(B)


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
