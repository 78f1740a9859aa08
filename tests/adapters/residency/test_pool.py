import asyncio
from collections.abc import Iterator

import pytest

from loramux_adapters.errors import AdapterLoadingFailed, NoAdapterCapacity, PinLimit, StoreError, VersionNotFound
from loramux_adapters.models import VersionId
from loramux_adapters.residency.backoff import MAX_DELAY
from tests.helpers.fake_pool_loader import pool_of, settle, version, violations

A, B, C = version(1), version(2), version(3)


@pytest.fixture(autouse=True)
def no_violations() -> Iterator[None]:
    violations.clear()
    yield
    assert not violations


async def test_a_lease_is_granted_only_once_the_version_is_loaded() -> None:
    pool, loader, _ = pool_of(2)
    loader.gate = asyncio.Event()
    waiting = asyncio.create_task(pool.lease(A))
    await settle()
    assert not waiting.done()
    assert not pool.is_resident(A)
    loader.clock.advance(0.5)
    loader.gate.set()
    lease = await waiting
    assert A in loader.held
    assert lease.cold
    assert lease.waited == 0.5


async def test_a_resident_version_is_leased_warm_and_without_a_load() -> None:
    pool, loader, _ = pool_of(2)
    (await pool.lease(A)).release()
    assert not (await pool.lease(A)).cold
    assert loader.loads[A] == 1


async def test_a_thousand_requests_for_one_cold_version_load_it_once() -> None:
    pool, loader, observed = pool_of(2)
    leases = await asyncio.gather(*(pool.lease(A) for _ in range(1000)))
    assert loader.loads[A] == 1
    assert observed.loads == [(A, True)]
    assert len(leases) == 1000


async def test_the_least_recently_leased_version_is_evicted() -> None:
    pool, loader, observed = pool_of(2)
    for wanted in (A, B, A, C):
        (await pool.lease(wanted)).release()
    assert loader.held == {A, C}
    assert observed.evictions == [(B, "capacity")]
    assert observed.count == 2


async def test_a_leased_version_is_never_evicted() -> None:
    pool, loader, _ = pool_of(1, max_wait=0.01)
    lease = await pool.lease(A)
    with pytest.raises(NoAdapterCapacity):
        await pool.lease(B)
    assert loader.held == {A}
    lease.release()
    await pool.lease(B)
    assert loader.held == {B}


async def test_releasing_twice_counts_once() -> None:
    pool, _, _ = pool_of(1, max_wait=0.01)
    first, second = await pool.lease(A), await pool.lease(A)
    first.release()
    first.release()
    with pytest.raises(NoAdapterCapacity):
        await pool.lease(B)
    second.release()
    assert (await pool.lease(B)).version == B


async def test_waiting_requests_are_served_in_order() -> None:
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


async def test_a_new_request_does_not_overtake_waiting_ones() -> None:
    pool, _, _ = pool_of(1)
    held = await pool.lease(A)
    first = asyncio.create_task(pool.lease(B))
    await settle()
    held.release()
    second = asyncio.create_task(pool.lease(C))  # requested while there is room, which is B's
    lease = await first
    assert not second.done()
    lease.release()
    assert (await second).version == C


async def test_requests_that_found_no_room_again_keep_their_order() -> None:
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
    second.release()  # there is room for two, and one is leased again immediately
    again = await pool.lease(A) if pool.is_resident(A) else await pool.lease(B)
    again.release()
    await asyncio.gather(*tasks)
    assert order == sorted(order)


async def test_all_requests_for_a_version_are_granted_with_the_first_one() -> None:
    pool, loader, _ = pool_of(1)
    held = await pool.lease(A)
    first, other, second = (asyncio.create_task(pool.lease(wanted)) for wanted in (B, C, B))
    await settle()
    held.release()
    await settle()
    assert first.result().version == second.result().version == B
    assert not other.done()
    assert loader.loads[B] == 1
    first.result().release()
    second.result().release()
    assert (await other).version == C


async def test_many_requests_for_a_broken_version_cause_one_load() -> None:
    pool, loader, _ = pool_of(1)
    held = await pool.lease(A)
    loader.broken.add(B)
    loader.turns = 0
    waiting = [asyncio.create_task(pool.lease(B)) for _ in range(64)]
    last = asyncio.create_task(pool.lease(C))
    await settle()
    held.release()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, AdapterLoadingFailed) for result in results)
    assert loader.loads[B] == 1
    assert (await last).version == C


async def test_a_failed_load_whose_request_was_cancelled_leaves_nothing_behind() -> None:
    pool, loader, observed = pool_of(1)
    loader.broken.add(A)
    loader.gate = asyncio.Event()
    first = asyncio.create_task(pool.lease(A))
    await settle()
    first.cancel()
    await settle()
    loader.gate.set()
    for _ in range(10):  # at any point of the load's end
        await asyncio.sleep(0)
        asyncio.create_task(pool.lease(B)).add_done_callback(lambda task: task.result().release())
    await settle()
    assert loader.held == {B}
    assert observed.count == 1


async def test_a_failed_unload_does_not_affect_the_next_load() -> None:
    pool, loader, _ = pool_of(1)
    (await pool.lease(A)).release()

    async def stuck(_: VersionId) -> None:
        loader.held.clear()
        raise RuntimeError("already gone")

    loader.unload = stuck  # type: ignore[assignment, method-assign]
    assert (await pool.lease(B)).version == B


async def test_with_a_full_queue_a_request_is_refused_immediately() -> None:
    pool, _, _ = pool_of(1, max_waiting=2)
    await pool.lease(A)
    waiting = [asyncio.create_task(pool.lease(version(number))) for number in (10, 11)]
    await settle()
    with pytest.raises(NoAdapterCapacity):
        pool.check(B)
    with pytest.raises(NoAdapterCapacity):
        await pool.lease(B)
    pool.check(A)  # a resident version needs no room
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    pool.check(B)


async def test_a_failed_load_fails_all_its_requests_and_frees_its_room() -> None:
    pool, loader, observed = pool_of(1)
    loader.broken.add(A)
    results = await asyncio.gather(*(pool.lease(A) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, AdapterLoadingFailed) for result in results)
    assert observed.loads == [(A, False)]
    assert (await pool.lease(B)).version == B


async def test_a_cancelled_request_does_not_cancel_the_load_for_the_others() -> None:
    pool, loader, _ = pool_of(1)
    loader.gate = asyncio.Event()
    first, second = asyncio.create_task(pool.lease(A)), asyncio.create_task(pool.lease(A))
    await settle()
    first.cancel()
    await settle()
    loader.gate.set()
    assert (await second).version == A
    assert loader.loads[A] == 1


async def test_a_loading_version_is_not_evicted_when_its_only_request_is_cancelled() -> None:
    pool, loader, _ = pool_of(1)
    loader.gate = asyncio.Event()
    first = asyncio.create_task(pool.lease(A))
    await settle()
    first.cancel()
    second = asyncio.create_task(pool.lease(B))
    await settle()
    loader.gate.set()
    assert (await second).version == B
    assert loader.held == {B}


async def test_a_cancelled_grant_goes_to_the_next_request() -> None:
    pool, _, _ = pool_of(1)
    held = await pool.lease(A)
    first, second = asyncio.create_task(pool.lease(B)), asyncio.create_task(pool.lease(C))
    await settle()
    held.release()
    first.cancel()
    assert (await asyncio.wait_for(second, 30)).version == C


async def test_a_discarded_version_is_evicted_with_its_last_lease() -> None:
    pool, loader, observed = pool_of(2)
    lease = await pool.lease(A)
    pool.discard(A)
    await settle()
    assert loader.held == {A}
    lease.release()
    await settle()
    assert loader.held == set()
    assert observed.evictions == [(A, "removed")]
    pool.discard(B)  # was never loaded


async def test_a_version_that_is_requested_during_its_unload_is_loaded_afterwards() -> None:
    pool, loader, _ = pool_of(1)
    (await pool.lease(A)).release()
    loader.turns = 5
    (await pool.lease(B)).release()
    leases = await asyncio.gather(pool.lease(B), return_exceptions=False)
    leases[0].release()
    assert (await pool.lease(A)).version == A
    assert loader.held == {A}


async def test_a_failed_version_is_backed_off_with_a_doubling_delay_and_evicts_nothing() -> None:
    pool, loader, observed = pool_of(1)
    (await pool.lease(B)).release()
    loader.broken.add(A)
    for attempt, pause in enumerate([1, 2, 4, 8], start=1):
        results = await asyncio.gather(*(pool.lease(A) for _ in range(64)), return_exceptions=True)
        assert all(isinstance(result, AdapterLoadingFailed) for result in results)
        assert loader.loads[A] == attempt
        (await pool.lease(B)).release()
        loader.clock.advance(pause - 0.5)
        with pytest.raises(AdapterLoadingFailed) as caught:
            pool.check(A)
        assert caught.value.retry_after == 0.5
        with pytest.raises(AdapterLoadingFailed):
            await pool.lease(A)
        assert loader.held == {B}
        loader.clock.advance(0.5)
    assert [version for version, _ in observed.evictions] == [B, B, B, B]
    loader.broken.clear()
    await pool.lease(A)
    assert pool.backoff.backed_off() == {}


async def test_the_delay_is_limited_and_can_be_reset() -> None:
    pool, loader, _ = pool_of(1)
    loader.broken.add(A)
    for _ in range(20):
        loader.clock.advance(MAX_DELAY)
        with pytest.raises(AdapterLoadingFailed):
            await pool.lease(A)
    assert pool.backoff.backed_off() == {A: MAX_DELAY}
    loader.broken.clear()
    loader.backoffs.clear()
    pool.reset_backoff(A)
    await pool.lease(A)


async def test_corrupt_files_are_reported_once_and_not_backed_off() -> None:
    reports: list[tuple[VersionId, str]] = []
    pool, loader, _ = pool_of(1)
    pool.on_corrupt_files(lambda version, reason: reports.append((version, reason)))
    loader.corrupt.add(A)
    results = await asyncio.gather(*(pool.lease(A) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreError] * 3
    assert reports == [(A, "changed")]
    assert pool.backoff.backed_off() == {}


async def test_a_version_that_fails_after_it_was_discarded_is_not_backed_off() -> None:
    pool, loader, _ = pool_of(1)
    loader.broken.add(A)
    loader.gate = asyncio.Event()
    waiting = asyncio.create_task(pool.lease(A))
    await settle()
    pool.discard(A)
    loader.gate.set()
    with pytest.raises(AdapterLoadingFailed):
        await waiting
    assert pool.backoff.backed_off() == {}


async def test_a_version_that_was_removed_during_its_load_is_not_backed_off() -> None:
    pool, loader, _ = pool_of(1)

    async def gone(_: VersionId) -> None:
        raise VersionNotFound("gone")

    loader.load = gone  # type: ignore[assignment, method-assign]
    with pytest.raises(VersionNotFound):
        await pool.lease(A)
    assert pool.backoff.backed_off() == {}


async def test_pinned_versions_are_loaded_and_stay_until_they_are_unpinned() -> None:
    pool, loader, _ = pool_of(3)
    pool.pin({A, B})
    await settle()
    assert loader.held == {A, B}
    for number in range(10, 15):
        (await pool.lease(version(number))).release()
        assert {A, B} <= loader.held
    pool.pin({B})
    for number in range(10, 15):
        (await pool.lease(version(number))).release()
    assert A not in loader.held
    assert B in loader.held


async def test_a_resident_version_is_pinned_where_it_is() -> None:
    pool, loader, _ = pool_of(2)
    (await pool.lease(A)).release()
    pool.pin({A})
    await settle()
    assert loader.loads[A] == 1
    (await pool.lease(B)).release()
    (await pool.lease(C)).release()
    assert loader.held == {A, C}


@pytest.mark.parametrize("slots", [1, 3, 8])
async def test_pins_leave_room_for_one_other_version_however_many_slots_there_are(slots: int) -> None:
    pool, loader, _ = pool_of(3, slots)
    pool.check_pins({A, B})
    with pytest.raises(PinLimit, match="MAX_CPU_LORAS"):
        pool.check_pins({A, B, C})
    pool.pin({A, B, C})  # as a registry says that was written with more room
    await settle()
    assert loader.held == pool.pinned.desired
    assert len(loader.held) == 2
    (await asyncio.wait_for(pool.lease(version(9)), 30)).release()


async def test_a_pin_waits_in_the_queue_like_a_request() -> None:
    pool, loader, _ = pool_of(2)
    held = [await pool.lease(A), await pool.lease(B)]
    pool.pin({C})
    later = asyncio.create_task(pool.lease(version(9)))
    await settle()
    assert C not in loader.held
    held[0].release()
    await settle()
    assert C in loader.held
    assert not later.done()
    held[1].release()
    assert (await later).version == version(9)


async def test_a_pin_that_can_t_be_loaded_is_retried_after_its_delay() -> None:
    pool, loader, _ = pool_of(2)
    loader.broken.add(A)
    pool.pin({A})
    await settle()
    assert (await pool.lease(B)).version == B
    assert set(pool.backoff.backed_off()) == {A}
    loader.clock.advance(1)
    await settle()
    assert loader.loads[A] == 2
    loader.broken.clear()
    loader.clock.advance(1.5)
    await settle()
    assert loader.loads[A] == 2
    loader.clock.advance(0.5)
    await settle()
    assert A in loader.held


async def test_a_removed_pin_is_not_retried() -> None:
    pool, loader, _ = pool_of(2)
    loader.broken.add(A)
    pool.pin({A})
    await settle()
    pool.pin(set())
    loader.clock.advance(MAX_DELAY)
    await settle()
    assert loader.loads[A] == 1


async def test_the_room_of_an_unpinned_version_goes_to_a_waiting_request() -> None:
    pool, loader, _ = pool_of(2)
    pool.pin({A})
    await pool.lease(B)
    waiting = asyncio.create_task(pool.lease(C))
    await settle()
    assert loader.held == {A, B}
    pool.pin(set())
    assert (await asyncio.wait_for(waiting, 30)).version == C


async def test_all_room_that_becomes_free_is_granted_immediately() -> None:
    pool, loader, _ = pool_of(3)
    pool.pin({A, B})
    await pool.lease(C)
    waiting = [asyncio.create_task(pool.lease(version(number))) for number in (10, 11)]
    await settle()
    loader.gate = asyncio.Event()
    pool.pin(set())
    assert pool.is_resident(C)
    assert {resident.version for resident in (await pool.view()).residents} == {C, version(10), version(11)}
    loader.gate.set()
    await asyncio.gather(*waiting)


async def test_a_version_that_is_loaded_after_its_pin_was_removed_is_not_kept() -> None:
    pool, loader, _ = pool_of(1)
    loader.gate = asyncio.Event()
    pool.pinned.set_desired({A})
    pool.pin(set())
    loader.gate.set()
    await settle()
    (await pool.lease(B)).release()
    assert loader.held == {B}


async def test_a_discarded_version_is_loaded_again_when_it_is_pinned_again() -> None:
    pool, loader, _ = pool_of(2)
    pool.pin({A})
    await settle()
    pool.discard(A)
    await settle()
    assert loader.held == set()
    pool.pin({A})
    await settle()
    assert loader.held == {A}


async def test_a_version_that_is_discarded_and_pinned_again_during_a_lease_stays() -> None:
    pool, loader, _ = pool_of(2)
    lease = await pool.lease(A)
    pool.discard(A)
    pool.pin({A})
    lease.release()
    await settle()
    assert loader.held == {A}
    assert loader.loads[A] == 1


async def test_a_prefetched_version_is_warm() -> None:
    pool, _, _ = pool_of(2)
    await pool.prefetch(A)
    assert not (await pool.lease(A)).cold


async def test_a_prefetch_evicts_no_leased_version_and_does_not_wait() -> None:
    pool, _, _ = pool_of(1)
    lease = await pool.lease(A)
    await pool.prefetch(A)
    with pytest.raises(NoAdapterCapacity):
        await asyncio.wait_for(pool.prefetch(B), 5)
    assert not pool.has_free_capacity
    lease.release()
    await pool.prefetch(B)
    assert pool.is_resident(B)


async def test_the_view_shows_residents_slots_and_backed_off_versions() -> None:
    pool, loader, _ = pool_of(3, slots=2, max_wait=0.01)
    await pool.lease(A)
    pool.pin({B})
    await settle()
    loader.broken.add(C)
    with pytest.raises(AdapterLoadingFailed):
        await pool.lease(C)
    loader.gate = asyncio.Event()
    loading = asyncio.create_task(pool.lease(version(9)))
    await settle()
    view = await pool.view()
    shown = {(r.version, r.leases, r.loading, r.pinned, r.in_slot) for r in view.residents}
    assert shown == {(A, 1, False, False, True), (B, 0, False, True, False), (version(9), 1, True, False, False)}
    assert (view.capacity, view.slots, view.waiting, set(view.backed_off)) == (3, 2, 0, {C})
    loader.gate.set()
    await loading
