import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import (
    AdapterExists,
    AdapterLoadingFailed,
    AdapterNotFound,
    AdapterRejected,
    NoAdapterCapacity,
    NothingToRollBack,
    PinLimit,
    SourceUnavailable,
    StoreError,
    VersionNotFound,
    VersionNotReady,
    VersionQuarantined,
)
from loramux_adapters.models import AdapterName, VersionId, VersionState, parse_adapter_name
from loramux_adapters.resolver import Catalogue
from loramux_adapters.service import Library
from tests.helpers.adapter_files import BASE
from tests.helpers.adapter_services import SILENT, CopySource, Workshop
from tests.helpers.registry_records import INTENT, PROOF, TONE

NAN = PROOF.model_copy(update={"finite": False})


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path)
    yield workshop
    workshop.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing announces."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def ready(library: Library, workshop: Workshop, seed: int = 0, name: AdapterName = TONE) -> VersionId:
    return (await library.add(name, workshop.source(seed), actor="test")).id


def state(library: Library, version: VersionId) -> VersionState | None:
    """The state in memory, which must be the registry's."""
    known = library.catalogue.version(str(version))
    (stored,) = [kept for record in library.registry.snapshot() for kept in record.versions if kept.id == version]
    assert known == stored
    return known.state if known else None


async def test_an_added_adapter_is_tried_on_the_engine_and_then_served(workshop: Workshop) -> None:
    library, engine = workshop.open()
    told: list[str] = []
    added = await library.add(TONE, workshop.source(0), actor="key_1", tell=told.append)
    assert (added.state, added.weight) == (VersionState.READY, 1.0)
    assert engine.proven == {added.id: 1}
    assert await library.proof(added.id) == PROOF
    assert library.catalogue.resolve(TONE) == added.id
    assert str(added.id) in told[-1]
    assert {change.actor for change in await library.audit(TONE, 10)} == {"key_1"}


@pytest.mark.parametrize(("shown", "reason"), [(SILENT, "changes nothing"), (NAN, "no numbers")])
async def test_what_shows_no_effect_is_rejected_and_stays_listed_with_what_it_showed(
    workshop: Workshop, shown: Any, reason: str
) -> None:
    library, engine = workshop.open()
    good = await ready(library, workshop, 0)
    engine.verdict = shown
    with pytest.raises(AdapterRejected, match=reason):
        await library.add(TONE, workshop.source(1), actor="test")
    (_, rejected) = library.show(TONE).versions
    assert state(library, rejected.id) is VersionState.REJECTED
    assert reason in str(rejected.reason)
    assert await library.proof(rejected.id) == shown
    assert library.catalogue.resolve(TONE) == good
    assert rejected.id not in engine.loaded
    with pytest.raises(VersionNotReady):
        library.catalogue.resolve(str(rejected.id))


async def test_what_the_engine_does_not_load_is_rejected(workshop: Workshop) -> None:
    library, engine = workshop.open()
    engine.verdict = AdapterLoadingFailed("no")
    with pytest.raises(AdapterRejected, match="could not load"):
        await library.add(TONE, workshop.source(0), actor="test")


@pytest.mark.parametrize("hindrance", [NoAdapterCapacity("full"), StoreError("gone"), RuntimeError("the engine died")])
async def test_what_can_t_be_tried_now_is_neither_served_nor_rejected_and_may_be_added_again(
    workshop: Workshop, hindrance: Exception
) -> None:
    library, engine = workshop.open()
    engine.verdict = hindrance
    with pytest.raises(type(hindrance)):
        await library.add(TONE, workshop.source(0), actor="test")
    (version,) = library.show(TONE).versions
    assert state(library, version.id) is VersionState.PROVING
    engine.verdict = PROOF
    assert await ready(library, workshop, 0) == version.id
    assert state(library, version.id) is VersionState.READY


async def test_without_proofs_a_version_serves_as_soon_as_it_is_accepted(workshop: Workshop) -> None:
    library, engine = workshop.open(proofs=False)
    version = await ready(library, workshop)
    assert state(library, version) is VersionState.READY
    assert await library.proof(version) is None
    assert not engine.proven


async def test_while_a_version_is_tried_it_is_known_and_not_served(workshop: Workshop) -> None:
    library, engine = workshop.open()
    engine.may_prove.clear()
    adding = asyncio.create_task(ready(library, workshop))
    await until(lambda: bool(engine.proven))
    (version,) = library.show(TONE).versions
    assert version.state is VersionState.PROVING
    with pytest.raises(VersionNotReady):
        library.catalogue.resolve(TONE)
    assert library.catalogue.path(version.id).is_dir()
    engine.may_prove.set()
    assert await adding == version.id


async def test_nothing_waits_for_a_slow_proof_but_its_own_adapter(workshop: Workshop) -> None:
    library, engine = workshop.open()
    other = await ready(library, workshop, 1, INTENT)
    engine.may_prove.clear()
    adding = asyncio.create_task(ready(library, workshop))
    await until(lambda: len(engine.proven) == 2)
    async with asyncio.timeout(10):
        await library.pin(INTENT, pinned=True, actor="test")
        await library.set_alias(INTENT, {other.digest: 2.0}, actor="test")
        await library.remove(INTENT, actor="test")
    engine.may_prove.set()
    await adding


async def test_two_versions_added_at_once_both_stay_and_what_was_concluded_last_has_the_name(
    workshop: Workshop,
) -> None:
    library, engine = workshop.open()
    engine.may_prove.clear()
    adding = [asyncio.create_task(ready(library, workshop, seed)) for seed in range(3)]
    await until(lambda: len(engine.proven) == 3)
    engine.may_prove.set()
    versions = await asyncio.gather(*adding)
    assert {version.id for version in library.show(TONE).versions} == set(versions)
    newest = (await library.audit(TONE, 1))[0]
    assert newest.after == library.show(TONE).targets
    assert len(newest.after) == 1


async def test_the_same_content_added_twice_at_once_is_one_version_and_both_succeed(workshop: Workshop) -> None:
    library, engine = workshop.open()
    engine.may_prove.clear()
    adding = [asyncio.create_task(ready(library, workshop)) for _ in range(2)]
    await until(lambda: engine.proven.total() == 2)
    engine.may_prove.set()
    one, other = await asyncio.gather(*adding)
    assert one == other
    assert state(library, one) is VersionState.READY
    assert len(workshop.contents()) == 1


async def test_content_that_serves_already_is_not_tried_again_and_gets_the_name_back(workshop: Workshop) -> None:
    library, engine = workshop.open()
    first = await ready(library, workshop, 0)
    await ready(library, workshop, 1)
    engine.verdict = SILENT
    assert await ready(library, workshop, 0) == first
    assert library.catalogue.resolve(TONE) == first
    assert engine.proven[first] == 1


async def test_what_is_configured_leaves_what_an_operator_decided_as_it_is(workshop: Workshop) -> None:
    library, _ = workshop.open()
    await library.add(TONE, workshop.source(0), actor="configuration", renew=False)
    second = await ready(library, workshop, 1)
    library, engine = workshop.open()
    await library.add(TONE, workshop.source(0), actor="configuration", renew=False)
    assert library.catalogue.resolve(TONE) == second
    assert not engine.proven
    third = await library.add(TONE, workshop.source(2), actor="configuration", renew=False)
    assert library.catalogue.resolve(TONE) == third.id


async def test_a_version_that_is_not_to_be_promoted_serves_by_its_digest_alone(workshop: Workshop) -> None:
    library, _ = workshop.open()
    first = await ready(library, workshop, 0)
    second = await library.add(TONE, workshop.source(1), actor="test", promote=False)
    assert library.catalogue.resolve(TONE) == first
    assert library.catalogue.resolve(str(second.id)) == second.id


async def test_what_an_ended_process_left_unproven_is_proven_at_the_next_start(workshop: Workshop) -> None:
    library, engine = workshop.open()
    engine.verdict = NoAdapterCapacity("full")
    for seed, promote in ((0, True), (1, False), (2, True)):
        with pytest.raises(NoAdapterCapacity):
            await library.add(AdapterName(f"a{seed}"), workshop.source(seed), actor="test", promote=promote)
    library, engine = workshop.open()
    await library.resume()
    assert engine.proven.total() == 3
    states = {record.name: (record.versions[0].state, len(record.targets)) for record in library.catalogue.adapters()}
    assert states == {"a0": (VersionState.READY, 1), "a1": (VersionState.READY, 0), "a2": (VersionState.READY, 1)}
    await library.resume()
    assert engine.proven.total() == 3


async def test_a_start_does_not_fail_because_of_a_version_that_can_t_be_tried(workshop: Workshop) -> None:
    for hindrance in (NoAdapterCapacity("full"), StoreError("gone"), AdapterLoadingFailed("no")):
        library, engine = workshop.open()
        engine.verdict = NoAdapterCapacity("full")
        with pytest.raises(NoAdapterCapacity):
            await library.add(TONE, workshop.source(0), actor="test")
        library, engine = workshop.open()
        engine.verdict = hindrance
        await library.resume()
    assert state(library, library.show(TONE).versions[0].id) is VersionState.REJECTED


async def test_a_client_that_hangs_up_does_not_stop_what_it_asked_for(workshop: Workshop) -> None:
    library, engine = workshop.open()
    engine.may_prove.clear()
    adding = asyncio.create_task(ready(library, workshop))
    await until(lambda: bool(engine.proven))
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    engine.may_prove.set()
    await library.changes.settled()
    assert [version.state for version in library.show(TONE).versions] == [VersionState.READY]
    assert list((workshop.root / "store" / "staging").iterdir()) == []


async def test_what_is_fetched_in_vain_leaves_nothing(workshop: Workshop) -> None:
    library, _ = workshop.open()
    broken = CopySource(workshop.root, error=SourceUnavailable("The bucket does not answer."))
    with pytest.raises(SourceUnavailable):
        await library.add(TONE, broken, actor="test")
    with pytest.raises(AdapterExists):
        await library.add(AdapterName(BASE.name), workshop.source(0), actor="test")
    assert workshop.contents() == set()
    assert await library.audit(None, 10) == []


async def test_removed_content_leaves_the_disk_when_no_version_has_it_any_more(workshop: Workshop) -> None:
    library, engine = workshop.open()
    old = await ready(library, workshop, 0)
    new = await ready(library, workshop, 1)
    twin = await ready(library, workshop, 1, INTENT)
    await library.prefetch(str(old))
    left = await library.remove_version(old, actor="test")
    assert [version.id for version in left.versions] == [new]
    await until(lambda: old not in engine.loaded)
    assert len(workshop.contents()) == 1
    await library.remove(TONE, actor="test")
    assert len(workshop.contents()) == 1
    assert library.catalogue.resolve(str(twin)) == twin
    await library.remove(INTENT, actor="test")
    assert workshop.contents() == set()
    with pytest.raises(AdapterNotFound):
        await library.remove(INTENT, actor="test")
    with pytest.raises(AdapterNotFound):
        await library.remove_version(twin, actor="test")


async def test_a_version_removed_while_it_is_tried_is_told_as_gone(workshop: Workshop) -> None:
    library, engine = workshop.open()
    engine.may_prove.clear()
    adding = asyncio.create_task(ready(library, workshop))
    await until(lambda: bool(engine.proven))
    await library.remove(TONE, actor="test")
    engine.may_prove.set()
    with pytest.raises(VersionNotFound):
        await adding
    assert library.catalogue.adapters() == library.registry.snapshot() == []


async def test_a_quarantined_version_serves_nobody_from_that_moment_on(workshop: Workshop) -> None:
    library, engine = workshop.open()
    first, second = await ready(library, workshop, 0), await ready(library, workshop, 1)
    await library.set_alias(TONE, {first.digest: 1, second.digest: 1}, actor="test")
    await library.prefetch(TONE)
    library.quarantine(second, "corrupt")
    assert {library.catalogue.resolve(TONE, str(user)) for user in range(20)} == {first}
    library.quarantine(first, "corrupt too")
    with pytest.raises(VersionQuarantined):
        library.catalogue.resolve(TONE)
    await library.changes.settled()
    assert state(library, first) is state(library, second) is VersionState.QUARANTINED
    assert engine.loaded == set()
    again, _ = workshop.open()
    with pytest.raises(VersionQuarantined):
        again.catalogue.resolve(TONE)


async def test_a_quarantine_is_told_once_however_often_it_is_found_out(workshop: Workshop) -> None:
    library, _ = workshop.open()
    told: list[tuple[VersionId, str]] = []
    library.on_quarantine = lambda version, reason: told.append((version, reason))
    version = await ready(library, workshop, 0)
    for _ in range(3):
        library.quarantine(version, "corrupt")
    assert told == [(version, "corrupt")]
    await library.changes.settled()


async def test_a_quarantine_holds_against_a_change_that_was_under_way(workshop: Workshop) -> None:
    library, _ = workshop.open()
    first, second = await ready(library, workshop, 0), await ready(library, workshop, 1)
    reread = library.registry.get

    def slowly(name: AdapterName) -> Any:
        record = reread(name)  # what it says is old when it arrives
        loop.call_soon_threadsafe(library.quarantine, first, "corrupt")
        return record

    loop = asyncio.get_running_loop()
    library.registry.get = slowly  # type: ignore[method-assign]
    changing = asyncio.create_task(library.set_alias(TONE, {first.digest: 1, second.digest: 1}, actor="test"))
    while not changing.done():
        await asyncio.sleep(0)
        known = library.catalogue.version(str(first))
        if first in library.changes._withdrawn:
            assert known is not None
            assert known.state is VersionState.QUARANTINED
    library.registry.get = reread  # type: ignore[method-assign]
    await library.changes.settled()
    assert state(library, first) is VersionState.QUARANTINED
    assert library.show(TONE).targets == {second.digest: 1}


async def test_a_quarantine_that_can_t_be_written_holds_in_memory_and_is_written_with_the_next_change(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, _ = workshop.open()
    first, second = await ready(library, workshop, 0), await ready(library, workshop, 1)

    def disk_full(*_: Any, **__: Any) -> None:
        raise StoreError("The adapter registry can't be read or written.")

    with monkeypatch.context() as patch:
        patch.setattr(library.registry, "conclude", disk_full)
        library.quarantine(second, "corrupt")
        await library.changes.settled()
        with pytest.raises(StoreError):
            await library.set_alias(TONE, {second.digest: 1}, actor="test")
        with pytest.raises(VersionQuarantined):
            library.catalogue.resolve(TONE)
    with pytest.raises(VersionNotReady):
        await library.set_alias(TONE, {second.digest: 1}, actor="test")
    await library.set_alias(TONE, {first.digest: 1}, actor="test")
    assert state(library, second) is VersionState.QUARANTINED


async def test_what_is_quarantined_can_be_rolled_back_from_and_added_again(workshop: Workshop) -> None:
    library, engine = workshop.open()
    first, second = await ready(library, workshop, 0), await ready(library, workshop, 1)
    library.quarantine(second, "corrupt")
    assert (await library.rollback(TONE, actor="test")).targets == {first.digest: 1.0}
    with pytest.raises(NothingToRollBack):
        await library.rollback(TONE, actor="test")
    assert await ready(library, workshop, 1) == second
    assert engine.proven[second] == 2
    assert library.catalogue.resolve(TONE) == second


async def test_quarantining_what_does_not_serve_changes_nothing(workshop: Workshop) -> None:
    library, engine = workshop.open()
    good = await ready(library, workshop, 0)
    engine.verdict = SILENT
    with pytest.raises(AdapterRejected):
        await library.add(TONE, workshop.source(1), actor="test")
    before = await library.audit(None, 100)
    for version in library.show(TONE).versions:
        if version.id != good:
            library.quarantine(version.id, "corrupt")
    library.quarantine(VersionId(INTENT, good.digest), "corrupt")
    await library.changes.settled()
    assert await library.audit(None, 100) == before


async def test_a_pinned_adapter_stays_in_the_engine_and_its_new_version_takes_its_place(workshop: Workshop) -> None:
    library, engine = workshop.open()
    first = await ready(library, workshop, 0)
    await library.pin(TONE, pinned=True, actor="test")
    await until(lambda: engine.pinned == {first})
    second = await ready(library, workshop, 1)
    await until(lambda: engine.pinned == {second})
    await library.pin(TONE, pinned=False, actor="test")
    await until(lambda: engine.pinned == set())


async def test_pins_never_take_the_last_slot_and_a_refused_pin_changes_nothing(workshop: Workshop) -> None:
    library, _ = workshop.open()
    names = [parse_adapter_name(f"a{number}") for number in range(workshop.capacity)]
    versions = [await ready(library, workshop, seed, name) for seed, name in enumerate(names)]
    for name in names[:-1]:
        await library.pin(name, pinned=True, actor="test")
    with pytest.raises(PinLimit):
        await library.pin(names[-1], pinned=True, actor="test")
    assert [record.pinned for record in library.registry.snapshot()] == [True] * (len(names) - 1) + [False]
    other = await library.add(names[0], workshop.source(9), actor="test", promote=False)
    with pytest.raises(PinLimit):
        await library.set_alias(names[0], {versions[0].digest: 1, other.id.digest: 1}, actor="test")
    assert library.catalogue.resolve(names[0]) == versions[0]


async def test_pins_and_the_most_used_adapters_are_brought_in_at_a_start(workshop: Workshop) -> None:
    library, _ = workshop.open()
    names = [parse_adapter_name(f"a{number}") for number in range(6)]
    versions = [await ready(library, workshop, seed, name) for seed, name in enumerate(names)]
    await library.pin(names[0], pinned=True, actor="test")
    for count, version in enumerate(versions[1:]):
        for _ in range(count):
            (await library.pool.lease(version)).release()
    await library.close()
    library, engine = workshop.open()
    await library.warm()
    await until(lambda: engine.pinned == {versions[0]})
    assert engine.loaded == {versions[0], versions[5], versions[4], versions[3]}


async def test_prefetching_brings_in_all_that_a_name_leads_to(workshop: Workshop) -> None:
    library, engine = workshop.open()
    first, second = await ready(library, workshop, 0), await ready(library, workshop, 1)
    assert await library.prefetch(str(first)) == [first]
    assert engine.loaded == {first}
    await library.set_alias(TONE, {first.digest: 1, second.digest: 1}, actor="test")
    assert set(await library.prefetch(TONE)) == {first, second}
    assert engine.loaded == {first, second}
    for name in ("nobody", f"nobody@{first.digest}", "x" * 1000):
        with pytest.raises(AdapterNotFound):
            await library.prefetch(name)
    library.quarantine(second, "corrupt")
    with pytest.raises(VersionQuarantined):
        await library.prefetch(str(second))


async def test_what_was_accepted_for_another_base_can_be_removed_and_its_files_with_it(workshop: Workshop) -> None:
    library, _ = workshop.open()
    await ready(library, workshop)
    twin = BASE.model_copy(update={"name": "another"})
    library.catalogue = Catalogue(library.registry.snapshot(), library.intake.store, twin)
    with pytest.raises(AdapterNotFound):
        library.show(TONE)
    await library.remove(TONE, actor="test")
    assert library.registry.snapshot() == []
    assert workshop.contents() == set()


CHANGES: list[Callable[[Library, VersionId], Awaitable[object]]] = [
    lambda library, version: library.set_alias(version.name, {version.digest: 1}, actor="x"),
    lambda library, version: library.rollback(version.name, actor="x"),
    lambda library, version: library.pin(version.name, pinned=True, actor="x"),
    lambda library, version: library.remove(version.name, actor="x"),
    lambda library, version: library.remove_version(version, actor="x"),
]


@pytest.mark.parametrize("change", CHANGES)
async def test_changes_to_an_unknown_adapter_are_refused(
    workshop: Workshop, change: Callable[[Library, VersionId], Awaitable[object]]
) -> None:
    library, _ = workshop.open()
    version = await ready(library, workshop)
    with pytest.raises(AdapterNotFound):
        await change(library, VersionId(INTENT, version.digest))
    with pytest.raises(AdapterNotFound):
        library.show(INTENT)
