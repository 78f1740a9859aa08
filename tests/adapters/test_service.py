import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import (
    AdapterExists,
    AdapterLoadingFailed,
    AdapterNotFound,
    AdapterRejected,
    InvalidAdapter,
    NoAdapterCapacity,
    NothingToRollBack,
    PinLimit,
    SourceUnavailable,
    StoreError,
    VersionNotFound,
    VersionNotReady,
    VersionQuarantined,
)
from loramux_adapters.intake.sources import ReportProgress
from loramux_adapters.models import AdapterName, VersionId, VersionState, parse_adapter_name
from loramux_adapters.resolver import AdapterResolver
from loramux_adapters.service import AdapterService
from tests.helpers.adapter_files import BASE
from tests.helpers.adapter_services import NO_EFFECT, CopySource, ServiceFactory
from tests.helpers.registry_records import EFFECT, INTENT, TONE

NAN = EFFECT.model_copy(update={"finite": False})


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[ServiceFactory]:
    factory = ServiceFactory(tmp_path)
    yield factory
    factory.close()


async def until(condition: Callable[[], bool]) -> None:
    """Poll for a condition that no event signals."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def ready(service: AdapterService, factory: ServiceFactory, seed: int = 0, name: AdapterName = TONE) -> VersionId:
    return (await service.add(name, factory.source(seed), actor="test")).id


def state(service: AdapterService, version: VersionId) -> VersionState | None:
    """Return the state in the resolver, which must agree with the registry."""
    known = service.resolver.version(str(version))
    (stored,) = [kept for record in service.registry.snapshot() for kept in record.versions if kept.id == version]
    assert known == stored
    return known.state if known else None


async def test_an_added_adapter_is_checked_on_the_engine_and_then_served(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    reports: list[str] = []
    added = await service.add(TONE, factory.source(0), actor="key_1", report_progress=reports.append)
    assert (added.state, added.weight) == (VersionState.READY, 1.0)
    assert engine.checks == {added.id: 1}
    assert await service.effect_check(added.id) == EFFECT
    assert service.resolver.resolve(TONE) == added.id
    assert str(added.id) in reports[-1]
    assert {change.actor for change in await service.audit(TONE, 10)} == {"key_1"}


@pytest.mark.parametrize(("check", "reason"), [(NO_EFFECT, "no effect"), (NAN, "NaN or infinite")])
async def test_a_version_without_effect_is_rejected_and_stays_listed_with_its_check(
    factory: ServiceFactory, check: Any, reason: str
) -> None:
    service, engine = factory.open()
    good = await ready(service, factory, 0)
    engine.outcome = check
    with pytest.raises(AdapterRejected, match=reason):
        await service.add(TONE, factory.source(1), actor="test")
    (_, rejected) = service.get(TONE).versions
    assert state(service, rejected.id) is VersionState.REJECTED
    assert reason in str(rejected.reason)
    assert await service.effect_check(rejected.id) == check
    assert service.resolver.resolve(TONE) == good
    assert rejected.id not in engine.loaded
    with pytest.raises(VersionNotReady):
        service.resolver.resolve(str(rejected.id))


async def test_a_version_that_the_engine_can_t_load_is_rejected(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    engine.outcome = AdapterLoadingFailed("no")
    with pytest.raises(AdapterRejected, match="could not load"):
        await service.add(TONE, factory.source(0), actor="test")


@pytest.mark.parametrize("obstacle", [NoAdapterCapacity("full"), StoreError("gone"), RuntimeError("the engine died")])
async def test_a_version_that_can_t_be_checked_now_is_neither_served_nor_rejected_and_can_be_added_again(
    factory: ServiceFactory, obstacle: Exception
) -> None:
    service, engine = factory.open()
    engine.outcome = obstacle
    with pytest.raises(type(obstacle)):
        await service.add(TONE, factory.source(0), actor="test")
    (version,) = service.get(TONE).versions
    assert state(service, version.id) is VersionState.CHECKING
    engine.outcome = EFFECT
    assert await ready(service, factory, 0) == version.id
    assert state(service, version.id) is VersionState.READY


async def test_without_effect_checks_a_version_is_served_once_it_is_accepted(factory: ServiceFactory) -> None:
    service, engine = factory.open(check_effects=False)
    version = await ready(service, factory)
    assert state(service, version) is VersionState.READY
    assert await service.effect_check(version) is None
    assert not engine.checks


async def test_a_version_is_listed_and_not_served_during_its_check(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    engine.may_check.clear()
    adding = asyncio.create_task(ready(service, factory))
    await until(lambda: bool(engine.checks))
    (version,) = service.get(TONE).versions
    assert version.state is VersionState.CHECKING
    with pytest.raises(VersionNotReady):
        service.resolver.resolve(TONE)
    assert service.resolver.path(version.id).is_dir()
    engine.may_check.set()
    assert await adding == version.id


async def test_a_slow_check_delays_only_its_own_adapter(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    other = await ready(service, factory, 1, INTENT)
    engine.may_check.clear()
    adding = asyncio.create_task(ready(service, factory))
    await until(lambda: len(engine.checks) == 2)
    async with asyncio.timeout(10):
        await service.pin(INTENT, pinned=True, actor="test")
        await service.set_alias(INTENT, {other.digest: 2.0}, actor="test")
        await service.remove(INTENT, actor="test")
    engine.may_check.set()
    await adding


async def test_versions_added_concurrently_all_stay_and_the_last_one_checked_is_promoted(
    factory: ServiceFactory,
) -> None:
    service, engine = factory.open()
    engine.may_check.clear()
    adding = [asyncio.create_task(ready(service, factory, seed)) for seed in range(3)]
    await until(lambda: len(engine.checks) == 3)
    engine.may_check.set()
    versions = await asyncio.gather(*adding)
    assert {version.id for version in service.get(TONE).versions} == set(versions)
    newest = (await service.audit(TONE, 1))[0]
    assert newest.after == service.get(TONE).targets
    assert len(newest.after) == 1


async def test_the_same_content_added_twice_concurrently_is_one_version(
    factory: ServiceFactory,
) -> None:
    service, engine = factory.open()
    engine.may_check.clear()
    adding = [asyncio.create_task(ready(service, factory)) for _ in range(2)]
    await until(lambda: engine.checks.total() == 2)
    engine.may_check.set()
    one, other = await asyncio.gather(*adding)
    assert one == other
    assert state(service, one) is VersionState.READY
    assert len(factory.contents()) == 1


async def test_ready_content_that_is_added_again_is_promoted_without_another_check(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    first = await ready(service, factory, 0)
    await ready(service, factory, 1)
    engine.outcome = NO_EFFECT
    assert await ready(service, factory, 0) == first
    assert service.resolver.resolve(TONE) == first
    assert engine.checks[first] == 1


async def test_configured_adapters_do_not_override_an_operator(factory: ServiceFactory) -> None:
    service, _ = factory.open()
    await service.add(TONE, factory.source(0), actor="configuration", skip_existing=True)
    second = await ready(service, factory, 1)
    service, engine = factory.open()
    await service.add(TONE, factory.source(0), actor="configuration", skip_existing=True)
    assert service.resolver.resolve(TONE) == second
    assert not engine.checks
    third = await service.add(TONE, factory.source(2), actor="configuration", skip_existing=True)
    assert service.resolver.resolve(TONE) == third.id


async def test_a_version_that_is_not_promoted_is_served_by_its_digest_only(factory: ServiceFactory) -> None:
    service, _ = factory.open()
    first = await ready(service, factory, 0)
    second = await service.add(TONE, factory.source(1), actor="test", promote=False)
    assert service.resolver.resolve(TONE) == first
    assert service.resolver.resolve(str(second.id)) == second.id


async def test_versions_left_unchecked_are_checked_at_the_next_start(
    factory: ServiceFactory,
) -> None:
    service, engine = factory.open()
    engine.outcome = NoAdapterCapacity("full")
    for seed, promote in ((0, True), (1, False), (2, True)):
        with pytest.raises(NoAdapterCapacity):
            await service.add(AdapterName(f"a{seed}"), factory.source(seed), actor="test", promote=promote)
    service, engine = factory.open()
    await service.resume_checks()
    assert engine.checks.total() == 3
    states = {record.name: (record.versions[0].state, len(record.targets)) for record in service.resolver.adapters()}
    assert states == {"a0": (VersionState.READY, 1), "a1": (VersionState.READY, 0), "a2": (VersionState.READY, 1)}
    await service.resume_checks()
    assert engine.checks.total() == 3


async def test_a_start_does_not_fail_because_of_a_version_that_can_t_be_checked(factory: ServiceFactory) -> None:
    for obstacle in (NoAdapterCapacity("full"), StoreError("gone"), AdapterLoadingFailed("no")):
        service, engine = factory.open()
        engine.outcome = NoAdapterCapacity("full")
        with pytest.raises(NoAdapterCapacity):
            await service.add(TONE, factory.source(0), actor="test")
        service, engine = factory.open()
        engine.outcome = obstacle
        await service.resume_checks()
    assert state(service, service.get(TONE).versions[0].id) is VersionState.REJECTED


async def test_an_addition_is_completed_although_its_client_disconnects(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    engine.may_check.clear()
    adding = asyncio.create_task(ready(service, factory))
    await until(lambda: bool(engine.checks))
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    engine.may_check.set()
    await service.wait_until_idle()
    assert [version.state for version in service.get(TONE).versions] == [VersionState.READY]
    assert list((factory.root / "store" / "staging").iterdir()) == []


async def test_a_failed_fetch_leaves_no_trace(factory: ServiceFactory) -> None:
    service, _ = factory.open()
    broken = CopySource(factory.root, error=SourceUnavailable("The bucket does not answer."))
    with pytest.raises(SourceUnavailable):
        await service.add(TONE, broken, actor="test")
    with pytest.raises(AdapterExists):
        await service.add(AdapterName(BASE.name), factory.source(0), actor="test")
    assert factory.contents() == set()
    assert await service.audit(None, 10) == []


async def test_an_adapter_is_accepted_after_the_engine_has_room_for_its_rank(factory: ServiceFactory) -> None:
    """A5: the rank is asked for before anything is stored; a refusal leaves no trace."""
    service, engine = factory.open()
    ranks: list[int] = []

    async def ensure_rank(rank: int) -> None:
        ranks.append(rank)
        assert service.resolver.version(TONE) is None
        if len(ranks) == 1:
            raise InvalidAdapter("the rank is above the engine's limit", where="adapter_config.json")

    service = AdapterService(service.ingest, service.registry, service.resolver, service.pool, engine, ensure_rank)
    with pytest.raises(InvalidAdapter, match="the rank is above"):
        await ready(service, factory)
    assert not factory.contents()
    assert (await ready(service, factory)).name == TONE
    assert ranks == [4, 4]


async def test_closing_does_not_wait_for_a_download_that_blocks(factory: ServiceFactory) -> None:
    class BlockedSource(CopySource):
        def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
            started.set()
            may_end.wait(30)
            ended.set()

    started, may_end, ended = threading.Event(), threading.Event(), threading.Event()
    service, _ = factory.open()
    adding = asyncio.create_task(service.add(TONE, BlockedSource(factory.root), actor="test"))
    await until(started.is_set)
    await service.close(timeout=0.01)
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert not ended.is_set()
    may_end.set()
    await until(ended.is_set)


async def test_closing_ends_a_download_when_it_reports_progress(factory: ServiceFactory) -> None:
    class SlowSource(CopySource):
        def fetch(self, into: Path, max_bytes: Mapping[str, int], report_progress: ReportProgress) -> None:
            started.set()
            may_report.wait(30)
            report_progress("downloading")

    started, may_report = threading.Event(), threading.Event()
    service, _ = factory.open()
    adding = asyncio.create_task(service.add(TONE, SlowSource(factory.root), actor="test"))
    await until(started.is_set)
    closing = asyncio.create_task(service.close(timeout=30))
    await asyncio.sleep(0)
    may_report.set()
    await closing
    with pytest.raises(SourceUnavailable, match="shutting down"):
        await adding


async def test_content_is_deleted_with_the_last_version_that_refers_to_it(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    old = await ready(service, factory, 0)
    new = await ready(service, factory, 1)
    twin = await ready(service, factory, 1, INTENT)
    await service.prefetch(str(old))
    left = await service.remove_version(old, actor="test")
    assert [version.id for version in left.versions] == [new]
    await until(lambda: old not in engine.loaded)
    assert len(factory.contents()) == 1
    await service.remove(TONE, actor="test")
    assert len(factory.contents()) == 1
    assert service.resolver.resolve(str(twin)) == twin
    await service.remove(INTENT, actor="test")
    assert factory.contents() == set()
    with pytest.raises(AdapterNotFound):
        await service.remove(INTENT, actor="test")
    with pytest.raises(AdapterNotFound):
        await service.remove_version(twin, actor="test")


async def test_adding_a_version_that_is_removed_during_its_check_fails(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    engine.may_check.clear()
    adding = asyncio.create_task(ready(service, factory))
    await until(lambda: bool(engine.checks))
    await service.remove(TONE, actor="test")
    engine.may_check.set()
    with pytest.raises(VersionNotFound):
        await adding
    assert service.resolver.adapters() == service.registry.snapshot() == []


async def test_a_quarantined_version_is_not_served_from_that_moment_on(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    first, second = await ready(service, factory, 0), await ready(service, factory, 1)
    await service.set_alias(TONE, {first.digest: 1, second.digest: 1}, actor="test")
    await service.prefetch(TONE)
    service.quarantine(second, "corrupt")
    assert {service.resolver.resolve(TONE, str(user)) for user in range(20)} == {first}
    service.quarantine(first, "corrupt too")
    with pytest.raises(VersionQuarantined):
        service.resolver.resolve(TONE)
    await service.wait_until_idle()
    assert state(service, first) is state(service, second) is VersionState.QUARANTINED
    assert engine.loaded == set()
    again, _ = factory.open()
    with pytest.raises(VersionQuarantined):
        again.resolver.resolve(TONE)


async def test_a_quarantine_is_reported_once_however_often_it_is_requested(factory: ServiceFactory) -> None:
    service, _ = factory.open()
    reports: list[tuple[VersionId, str]] = []
    service.on_quarantine = lambda version, reason: reports.append((version, reason))
    version = await ready(service, factory, 0)
    for _ in range(3):
        service.quarantine(version, "corrupt")
    assert reports == [(version, "corrupt")]
    await service.wait_until_idle()


async def test_a_quarantine_holds_against_a_change_in_progress(factory: ServiceFactory) -> None:
    service, _ = factory.open()
    first, second = await ready(service, factory, 0), await ready(service, factory, 1)
    reread = service.registry.get

    def slowly(name: AdapterName) -> Any:
        record = reread(name)  # outdated when it is returned
        loop.call_soon_threadsafe(service.quarantine, first, "corrupt")
        return record

    loop = asyncio.get_running_loop()
    service.registry.get = slowly  # type: ignore[method-assign]
    changing = asyncio.create_task(service.set_alias(TONE, {first.digest: 1, second.digest: 1}, actor="test"))
    while not changing.done():
        await asyncio.sleep(0)
        known = service.resolver.version(str(first))
        if first in service._sync._unwritten_quarantines:
            assert known is not None
            assert known.state is VersionState.QUARANTINED
    service.registry.get = reread  # type: ignore[method-assign]
    await service.wait_until_idle()
    assert state(service, first) is VersionState.QUARANTINED
    assert service.get(TONE).targets == {second.digest: 1}


async def test_a_quarantine_that_can_t_be_written_holds_in_memory_and_is_written_with_the_next_change(
    factory: ServiceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = factory.open()
    first, second = await ready(service, factory, 0), await ready(service, factory, 1)

    def disk_full(*_: Any, **__: Any) -> None:
        raise StoreError("The adapter registry can't be read or written.")

    with monkeypatch.context() as patch:
        patch.setattr(service.registry, "set_state", disk_full)
        service.quarantine(second, "corrupt")
        await service.wait_until_idle()
        with pytest.raises(StoreError):
            await service.set_alias(TONE, {second.digest: 1}, actor="test")
        with pytest.raises(VersionQuarantined):
            service.resolver.resolve(TONE)
    with pytest.raises(VersionNotReady):
        await service.set_alias(TONE, {second.digest: 1}, actor="test")
    await service.set_alias(TONE, {first.digest: 1}, actor="test")
    assert state(service, second) is VersionState.QUARANTINED


async def test_a_quarantined_version_can_be_rolled_back_and_added_again(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    first, second = await ready(service, factory, 0), await ready(service, factory, 1)
    service.quarantine(second, "corrupt")
    assert (await service.roll_back(TONE, actor="test")).targets == {first.digest: 1.0}
    with pytest.raises(NothingToRollBack):
        await service.roll_back(TONE, actor="test")
    assert await ready(service, factory, 1) == second
    assert engine.checks[second] == 2
    assert service.resolver.resolve(TONE) == second


async def test_quarantining_a_version_that_is_not_served_changes_nothing(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    good = await ready(service, factory, 0)
    engine.outcome = NO_EFFECT
    with pytest.raises(AdapterRejected):
        await service.add(TONE, factory.source(1), actor="test")
    before = await service.audit(None, 100)
    for version in service.get(TONE).versions:
        if version.id != good:
            service.quarantine(version.id, "corrupt")
    service.quarantine(VersionId(INTENT, good.digest), "corrupt")
    await service.wait_until_idle()
    assert await service.audit(None, 100) == before


async def test_a_pinned_adapter_stays_in_the_engine_and_its_new_version_replaces_it(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    first = await ready(service, factory, 0)
    await service.pin(TONE, pinned=True, actor="test")
    assert service.pool.pinned.desired == {first}
    second = await ready(service, factory, 1)
    await until(lambda: service.pool.pinned.desired == {second} <= engine.loaded)
    await service.pin(TONE, pinned=False, actor="test")
    assert not service.pool.pinned.desired


async def test_pins_never_take_all_host_memory_and_a_refused_pin_changes_nothing(factory: ServiceFactory) -> None:
    service, _ = factory.open()
    names = [parse_adapter_name(f"a{number}") for number in range(factory.capacity)]
    versions = [await ready(service, factory, seed, name) for seed, name in enumerate(names)]
    for name in names[:-1]:
        await service.pin(name, pinned=True, actor="test")
    with pytest.raises(PinLimit):
        await service.pin(names[-1], pinned=True, actor="test")
    assert [record.pinned for record in service.registry.snapshot()] == [True] * (len(names) - 1) + [False]
    other = await service.add(names[0], factory.source(9), actor="test", promote=False)
    with pytest.raises(PinLimit):
        await service.set_alias(names[0], {versions[0].digest: 1, other.id.digest: 1}, actor="test")
    assert service.resolver.resolve(names[0]) == versions[0]


async def test_pinned_and_most_used_adapters_are_loaded_at_startup(factory: ServiceFactory) -> None:
    service, _ = factory.open()
    names = [parse_adapter_name(f"a{number}") for number in range(6)]
    versions = [await ready(service, factory, seed, name) for seed, name in enumerate(names)]
    await service.pin(names[0], pinned=True, actor="test")
    for count, version in enumerate(versions[1:]):
        for _ in range(count):
            service.resolver.count_use(version)
    await service.close()
    service, engine = factory.open()
    await service.warm_up()
    await until(lambda: len(engine.loaded) == 4)
    assert engine.loaded == {versions[0], versions[5], versions[4], versions[3]}


async def test_use_counts_are_current_before_during_and_after_they_are_saved(factory: ServiceFactory) -> None:
    """T13: `adapter list` shows a request as soon as it has ended."""
    service, _ = factory.open()
    version = await ready(service, factory, 0)

    def shown() -> list[int]:
        listed = [record for record in service.resolver.adapters() if record.name == version.name]
        return [known.uses for record in (*listed, service.get(version.name)) for known in record.versions]

    for total in (1, 2, 3):
        service.resolver.count_use(version)
        assert shown() == [total, total]
        await service.flush_use_counts()
        assert shown() == [total, total]
        await service.pin(version.name, pinned=total % 2 == 1, actor="test")  # reads the record from the registry again
        assert shown() == [total, total]
    service.resolver.count_use(version)
    assert [known.uses for known in (await service.remove(version.name, actor="test")).versions] == [4]
    service.resolver.count_use(version)  # a request that ends after its adapter was removed
    await service.flush_use_counts()
    assert service.resolver.adapters() == []


async def test_use_counts_are_kept_while_the_registry_can_t_be_written(
    factory: ServiceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = factory.open()
    version = await ready(service, factory, 0)
    service.resolver.count_use(version)

    def fail(_: object) -> None:
        raise StoreError("no database")

    with monkeypatch.context() as broken, pytest.raises(StoreError):
        broken.setattr(service.registry, "add_use_counts", fail)
        await service.flush_use_counts()
    await service.flush_use_counts()
    assert [known.uses for known in service.registry.get(version.name).versions] == [1]


async def test_prefetching_loads_all_targets_of_a_name(factory: ServiceFactory) -> None:
    service, engine = factory.open()
    first, second = await ready(service, factory, 0), await ready(service, factory, 1)
    assert await service.prefetch(str(first)) == [first]
    assert engine.loaded == {first}
    await service.set_alias(TONE, {first.digest: 1, second.digest: 1}, actor="test")
    assert set(await service.prefetch(TONE)) == {first, second}
    assert engine.loaded == {first, second}
    for name in ("nobody", f"nobody@{first.digest}", "x" * 1000):
        with pytest.raises(AdapterNotFound):
            await service.prefetch(name)
    service.quarantine(second, "corrupt")
    with pytest.raises(VersionQuarantined):
        await service.prefetch(str(second))


async def test_an_adapter_of_another_base_can_be_removed_with_its_files(factory: ServiceFactory) -> None:
    service, _ = factory.open()
    await ready(service, factory)
    twin = BASE.spec.model_copy(update={"name": "another"})
    service.resolver = AdapterResolver(service.registry.snapshot(), service.ingest.store, twin)
    with pytest.raises(AdapterNotFound):
        service.get(TONE)
    await service.remove(TONE, actor="test")
    assert service.registry.snapshot() == []
    assert factory.contents() == set()


CHANGES: list[Callable[[AdapterService, VersionId], Awaitable[object]]] = [
    lambda service, version: service.set_alias(version.name, {version.digest: 1}, actor="x"),
    lambda service, version: service.roll_back(version.name, actor="x"),
    lambda service, version: service.pin(version.name, pinned=True, actor="x"),
    lambda service, version: service.remove(version.name, actor="x"),
    lambda service, version: service.remove_version(version, actor="x"),
]


@pytest.mark.parametrize("change", CHANGES)
async def test_changes_to_an_unknown_adapter_are_refused(
    factory: ServiceFactory, change: Callable[[AdapterService, VersionId], Awaitable[object]]
) -> None:
    service, _ = factory.open()
    version = await ready(service, factory)
    with pytest.raises(AdapterNotFound):
        await change(service, VersionId(INTENT, version.digest))
    with pytest.raises(AdapterNotFound):
        service.get(INTENT)
