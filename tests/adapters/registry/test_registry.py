import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loramux_adapters.errors import (
    AdapterExists,
    AdapterNotFound,
    InvalidAlias,
    NothingToRollBack,
    StoreError,
    VersionInUse,
    VersionNotFound,
    VersionNotReady,
)
from loramux_adapters.models import AdapterName, Digest, VersionId, VersionState, parse_adapter_name
from loramux_adapters.registry.registry import Registry
from loramux_server import database as db
from tests.helpers.registry_records import EFFECT, INTENT, SOURCE, TONE, at, fill, manifest, ready


def targets_of(registry: Registry, name: AdapterName) -> dict[Digest, float]:
    return registry.get(name).targets


def state_of(registry: Registry, version: VersionId) -> VersionState:
    return next(known.state for known in registry.get(version.name).versions if known.id == version)


def actions(registry: Registry, name: AdapterName | None = None) -> list[str]:
    return [change.action for change in reversed(registry.audit(name, 1000))]


def test_a_new_version_is_not_a_target_before_its_effect_is_checked(registry: Registry) -> None:
    version = registry.add_version(TONE, manifest("a1"), SOURCE, at(10.0))
    assert version == manifest("a1").version_id(TONE)
    record = registry.get(TONE)
    assert (record.name, record.created_at, record.pinned, record.targets) == (TONE, 10.0, False, {})
    (stored,) = record.versions
    assert (stored.id, stored.manifest, stored.source) == (version, manifest("a1"), SOURCE)
    assert (stored.state, stored.created_at, stored.weight) == (VersionState.CHECKING, 10.0, 0.0)
    assert (stored.reason, stored.uses) == (None, 0)


def test_a_checked_version_is_promoted_and_its_check_is_kept(registry: Registry) -> None:
    version = ready(registry, TONE, "a1")
    assert targets_of(registry, TONE) == {version.digest: 1.0}
    assert state_of(registry, version) is VersionState.READY
    assert registry.effect_check(version) == EFFECT


def test_a_version_that_is_not_promoted_is_served_by_its_digest_only(registry: Registry) -> None:
    first = ready(registry, TONE, "a1")
    second = ready(registry, TONE, "a2", promote=False)
    assert state_of(registry, second) is VersionState.READY
    assert targets_of(registry, TONE) == {first.digest: 1.0}


def test_content_added_twice_before_its_check_is_promoted_if_one_addition_promotes(registry: Registry) -> None:
    for name, promotions in ((TONE, (True, False)), (INTENT, (False, True))):
        for promote in promotions:
            version = registry.add_version(name, manifest("a1"), SOURCE, at(1.0), promote=promote)
        registry.set_state(version, VersionState.READY, at(2.0))
        assert targets_of(registry, name) == {version.digest: 1.0}


def test_a_rejected_version_is_promoted_only_if_its_latest_addition_promotes(registry: Registry) -> None:
    version = registry.add_version(TONE, manifest("a1"), SOURCE, at(1.0))
    registry.set_state(version, VersionState.REJECTED, at(1.0), reason="no effect")
    registry.add_version(TONE, manifest("a1"), SOURCE, at(2.0), promote=False)
    registry.set_state(version, VersionState.READY, at(2.0))
    assert targets_of(registry, TONE) == {}


def test_a_rejected_version_is_listed_with_its_reason_and_the_targets_are_unchanged(registry: Registry) -> None:
    good = ready(registry, TONE, "a1")
    bad = registry.add_version(TONE, manifest("a2"), SOURCE, at(2.0))
    check = EFFECT.model_copy(update={"difference": 0.0})
    registry.set_state(bad, VersionState.REJECTED, at(2.0), reason="no effect", effect_check=check)
    assert targets_of(registry, TONE) == {good.digest: 1.0}
    (_, listed) = registry.get(TONE).versions
    assert (listed.state, listed.reason) == (VersionState.REJECTED, "no effect")
    assert registry.effect_check(bad) == check


def test_a_later_version_replaces_the_target_and_the_older_one_stays(registry: Registry) -> None:
    first, second = ready(registry, TONE, "a1", 10.0), ready(registry, TONE, "a2", 20.0)
    assert [version.id for version in registry.get(TONE).versions] == [first, second]
    assert targets_of(registry, TONE) == {second.digest: 1.0}
    assert registry.get(TONE).created_at == 10.0


def test_the_same_content_again_is_the_same_version_in_the_same_state(registry: Registry) -> None:
    first = ready(registry, TONE, "a1")
    second = ready(registry, TONE, "a2")
    assert registry.add_version(TONE, manifest("a1"), SOURCE, at(30.0)) == first
    assert state_of(registry, first) is VersionState.READY
    assert targets_of(registry, TONE) == {second.digest: 1.0}
    assert len(registry.get(TONE).versions) == 2


@pytest.mark.parametrize("ended", [VersionState.REJECTED, VersionState.QUARANTINED])
def test_a_rejected_or_quarantined_version_can_be_added_again(registry: Registry, ended: VersionState) -> None:
    version = registry.add_version(TONE, manifest("a1"), SOURCE, at(1.0))
    if ended is VersionState.QUARANTINED:
        registry.set_state(version, VersionState.READY, at(1.0))
    registry.set_state(version, ended, at(2.0), reason="bad")
    assert targets_of(registry, TONE) == {}
    registry.add_version(TONE, manifest("a1"), SOURCE, at(3.0))
    (again,) = registry.get(TONE).versions
    assert (again.state, again.reason, again.weight) == (VersionState.CHECKING, None, 0.0)


LEGAL = {
    (VersionState.CHECKING, VersionState.READY),
    (VersionState.CHECKING, VersionState.REJECTED),
    (VersionState.READY, VersionState.QUARANTINED),
    (VersionState.REJECTED, VersionState.CHECKING),
    (VersionState.QUARANTINED, VersionState.CHECKING),
}


def test_these_are_the_only_transitions_between_states() -> None:
    assert {(one, other) for one in VersionState for other in VersionState if one.can_become(other)} == LEGAL


@pytest.mark.parametrize("target", [VersionState.READY, VersionState.REJECTED, VersionState.QUARANTINED])
@pytest.mark.parametrize("state", list(VersionState))
def test_a_transition_that_does_not_exist_is_refused_and_changes_nothing(
    registry: Registry, state: VersionState, target: VersionState
) -> None:
    version = registry.add_version(TONE, manifest("a1"), SOURCE, at(1.0))
    if state in (VersionState.READY, VersionState.QUARANTINED):
        registry.set_state(version, VersionState.READY, at(1.0))
    if state in (VersionState.REJECTED, VersionState.QUARANTINED):
        registry.set_state(version, state, at(1.0), reason="bad")
    assert state_of(registry, version) is state
    if (state, target) in LEGAL:
        registry.set_state(version, target, at(2.0))
        assert state_of(registry, version) is target
    else:
        before = (registry.snapshot(), actions(registry))
        with pytest.raises(VersionNotReady):
            registry.set_state(version, target, at(2.0))
        assert (registry.snapshot(), actions(registry)) == before


def test_the_same_content_can_be_served_under_two_names(registry: Registry) -> None:
    version = ready(registry, TONE, "a1")
    ready(registry, INTENT, "a1")
    assert [record.name for record in registry.snapshot()] == [INTENT, TONE]
    assert targets_of(registry, TONE) == targets_of(registry, INTENT) == {version.digest: 1.0}


def test_other_content_with_the_same_short_digest_is_refused_and_changes_nothing(registry: Registry) -> None:
    registry.add_version(TONE, manifest("a" * 12), SOURCE, at(1.0))
    before = (registry.snapshot(), actions(registry))
    with pytest.raises(AdapterExists):
        registry.add_version(TONE, manifest("a" * 13), SOURCE, at(2.0))
    assert (registry.snapshot(), actions(registry)) == before


def test_a_quarantined_canary_leaves_the_other_targets_unchanged(registry: Registry) -> None:
    stable, canary = ready(registry, TONE, "a1"), ready(registry, TONE, "a2", promote=False)
    registry.set_alias(TONE, {stable.digest: 95, canary.digest: 5}, at(3.0), "split")
    assert targets_of(registry, TONE) == {stable.digest: 95, canary.digest: 5}
    registry.set_state(canary, VersionState.QUARANTINED, at(4.0), reason="corrupt")
    assert targets_of(registry, TONE) == {stable.digest: 95}


def test_targets_must_be_ready_versions_of_the_same_adapter(registry: Registry) -> None:
    good = ready(registry, TONE, "a1")
    proving = registry.add_version(TONE, manifest("a2"), SOURCE, at(2.0))
    other = ready(registry, INTENT, "b1")
    before = (registry.snapshot(), actions(registry))
    for digest, error in ((proving.digest, VersionNotReady), (other.digest, VersionNotFound)):
        with pytest.raises(error):
            registry.set_alias(TONE, {good.digest: 1.0, digest: 1.0}, at(3.0))
    with pytest.raises(AdapterNotFound):
        registry.set_alias(parse_adapter_name("nobody"), {good.digest: 1.0}, at(3.0))
    assert (registry.snapshot(), actions(registry)) == before


@pytest.mark.parametrize(
    "weights", [[], [0.0], [-1.0], [math.nan], [math.inf], [1.0, 0.0], [1.0, math.nan], [1e308, 1e308]]
)
def test_invalid_weights_are_refused(registry: Registry, weights: list[float]) -> None:
    versions = [ready(registry, TONE, digest) for digest in ("a1", "a2")]
    before = (registry.snapshot(), actions(registry))
    targets = {version.digest: weight for version, weight in zip(versions, weights, strict=False)}
    with pytest.raises(InvalidAlias):
        registry.set_alias(TONE, targets, at(2.0))
    assert (registry.snapshot(), actions(registry)) == before


def test_rolling_back_goes_back_step_by_step_and_then_there_is_nothing(registry: Registry) -> None:
    first, second = ready(registry, TONE, "a1"), ready(registry, TONE, "a2")
    registry.set_alias(TONE, {first.digest: 9, second.digest: 1}, at(3.0), "split")
    registry.set_alias(TONE, {second.digest: 1}, at(4.0))
    registry.set_alias(TONE, {second.digest: 1}, at(4.0))  # Changes nothing, so there is nothing to go back to.
    expected = [{first.digest: 9, second.digest: 1}, {second.digest: 1}, {first.digest: 1}]
    for targets in expected:
        registry.roll_back(TONE, at(5.0))
        assert targets_of(registry, TONE) == targets
    with pytest.raises(NothingToRollBack):
        registry.roll_back(TONE, at(6.0))
    assert targets_of(registry, TONE) == expected[-1]


def test_rolling_back_skips_targets_that_can_t_be_served_any_more(registry: Registry) -> None:
    first, second, third = (ready(registry, TONE, digest) for digest in ("a1", "a2", "a3"))
    registry.set_state(second, VersionState.QUARANTINED, at(2.0), reason="corrupt")
    registry.roll_back(TONE, at(3.0))
    assert targets_of(registry, TONE) == {first.digest: 1.0}
    registry.set_alias(TONE, {third.digest: 1.0}, at(4.0))
    registry.remove_version(first, at(5.0))
    with pytest.raises(NothingToRollBack):
        registry.roll_back(TONE, at(6.0))
    assert targets_of(registry, TONE) == {third.digest: 1.0}


def test_after_the_quarantine_of_a_canary_there_is_nothing_to_roll_back(registry: Registry) -> None:
    stable, canary = ready(registry, TONE, "a1"), ready(registry, TONE, "a2", promote=False)
    registry.set_alias(TONE, {stable.digest: 95, canary.digest: 5}, at(3.0), "split")
    registry.set_state(canary, VersionState.QUARANTINED, at(4.0), reason="corrupt")
    with pytest.raises(NothingToRollBack):
        registry.roll_back(TONE, at(5.0))


def test_promoting_the_current_target_is_not_a_step_to_roll_back(registry: Registry) -> None:
    first = ready(registry, TONE, "a1")
    second = ready(registry, TONE, "a2")
    registry.set_alias(TONE, {second.digest: 7}, at(3.0))
    registry.roll_back(TONE, at(4.0))
    assert targets_of(registry, TONE) == {first.digest: 1.0}
    assert len(registry.audit(TONE, 100)) == 8


def test_when_the_only_version_is_quarantined_the_name_can_be_rolled_back(registry: Registry) -> None:
    first, second = ready(registry, TONE, "a1"), ready(registry, TONE, "a2")
    registry.set_state(second, VersionState.QUARANTINED, at(2.0), reason="corrupt")
    assert targets_of(registry, TONE) == {}
    registry.roll_back(TONE, at(3.0))
    assert targets_of(registry, TONE) == {first.digest: 1.0}


def test_a_pin_is_kept_with_the_adapter(registry: Registry) -> None:
    ready(registry, TONE, "a1")
    registry.set_pinned(TONE, at(2.0), pinned=True)
    assert registry.get(TONE).pinned
    ready(registry, TONE, "a2")
    assert registry.get(TONE).pinned
    registry.set_pinned(TONE, at(3.0), pinned=False)
    assert not registry.get(TONE).pinned


def test_an_adapter_is_removed_with_its_versions_and_can_be_added_again(registry: Registry) -> None:
    ready(registry, TONE, "a1")
    ready(registry, TONE, "a2")
    ready(registry, INTENT, "b1")
    registry.remove(TONE, at(2.0))
    assert [record.name for record in registry.snapshot()] == [INTENT]
    version = ready(registry, TONE, "a3", 3.0)
    assert [known.manifest for known in registry.get(TONE).versions] == [manifest("a3")]
    with pytest.raises(NothingToRollBack):
        registry.roll_back(TONE, at(4.0))
    assert targets_of(registry, TONE) == {version.digest: 1.0}


def test_a_version_can_be_removed_unless_it_is_a_target(registry: Registry) -> None:
    old, new = ready(registry, TONE, "a1"), ready(registry, TONE, "a2")
    with pytest.raises(VersionInUse):
        registry.remove_version(new, at(2.0))
    registry.remove_version(old, at(2.0))
    assert [version.id for version in registry.get(TONE).versions] == [new]
    with pytest.raises(VersionNotFound):
        registry.remove_version(old, at(3.0))


def test_removing_the_last_version_removes_the_adapter(registry: Registry) -> None:
    version = registry.add_version(TONE, manifest("a1"), SOURCE, at(1.0))
    registry.set_state(version, VersionState.REJECTED, at(1.0), reason="no effect")
    registry.remove_version(version, at(2.0))
    assert registry.snapshot() == []
    with pytest.raises(AdapterNotFound):
        registry.set_pinned(TONE, at(3.0), pinned=True)


def test_content_is_known_by_its_full_digest_while_a_version_refers_to_it(registry: Registry) -> None:
    ready(registry, TONE, "a" * 12)
    ready(registry, INTENT, "a" * 12)
    assert registry.has_content(manifest("a" * 12).digest)
    assert not registry.has_content(manifest("a" * 13).digest)
    registry.remove(TONE, at(2.0))
    assert registry.has_content(manifest("a" * 12).digest)
    registry.remove(INTENT, at(2.0))
    assert not registry.has_content(manifest("a" * 12).digest)


def test_use_counts_add_up_and_those_of_removed_versions_are_ignored(registry: Registry) -> None:
    version = ready(registry, TONE, "a1")
    gone = VersionId(INTENT, version.digest)
    registry.add_use_counts({})
    registry.add_use_counts({version: 2, gone: 7})
    registry.add_use_counts({version: 3_000_000_000})
    assert [known.uses for known in registry.get(TONE).versions] == [3_000_000_002]


def test_every_change_is_audited_with_actor_time_before_and_after(registry: Registry) -> None:
    first, second = ready(registry, TONE, "a1", 1.0), ready(registry, TONE, "a2", 2.0)
    registry.set_alias(TONE, {first.digest: 3, second.digest: 1}, at(3.0, "key_2"), "split")
    registry.roll_back(TONE, at(4.0))
    registry.set_pinned(TONE, at(5.0), pinned=True)
    registry.set_state(first, VersionState.QUARANTINED, at(6.0, "server"), reason="corrupt")
    registry.remove_version(first, at(7.0))
    registry.remove(TONE, at(8.0))
    ready(registry, INTENT, "b1", 9.0)
    assert actions(registry, TONE) == [
        *("add", "ready", "promote") * 2,
        "split",
        "rollback",
        "pin",
        "quarantined",
        "remove_version",
        "remove",
    ]
    assert actions(registry) == [*actions(registry, TONE), "add", "ready", "promote"]
    split = next(change for change in registry.audit(TONE, 100) if change.action == "split")
    assert (split.actor, split.at, split.adapter) == ("key_2", 3.0, TONE)
    assert (split.before, split.after) == ({second.digest: 1.0}, {first.digest: 3, second.digest: 1})
    assert [change.action for change in registry.audit(TONE, 1)] == ["remove"]


def test_an_unknown_adapter_is_an_error_that_names_it(registry: Registry) -> None:
    calls: list[Callable[[], object]] = [
        lambda: registry.get(TONE),
        lambda: registry.remove(TONE, at(1.0)),
        lambda: registry.roll_back(TONE, at(1.0)),
        lambda: registry.set_pinned(TONE, at(1.0), pinned=True),
        lambda: registry.set_state(VersionId(TONE, Digest("a" * 12)), VersionState.READY, at(1.0)),
    ]
    for call in calls:
        with pytest.raises(AdapterNotFound, match="tone"):
            call()
    assert registry.audit(None, 10) == []


def test_names_are_case_sensitive(registry: Registry) -> None:
    ready(registry, TONE, "a1")
    with pytest.raises(AdapterNotFound):
        registry.get(parse_adapter_name("Tone"))


def test_versions_added_concurrently_all_stay_and_one_is_the_target(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = set(pool.map(lambda number: ready(registry, TONE, f"{number:012x}", float(number)), range(40)))
    assert {version.id for version in registry.get(TONE).versions} == added
    assert len(targets_of(registry, TONE)) == 1


def test_concurrent_promotions_and_rollbacks_leave_one_target_and_one_audit_row_each(registry: Registry) -> None:
    versions = [ready(registry, TONE, f"{number:012x}") for number in range(4)]
    before = len(actions(registry))

    def change(number: int) -> int:
        try:
            if number % 3 == 2:
                registry.roll_back(TONE, at(2.0))
            else:
                registry.set_alias(TONE, {versions[number % 4].digest: 1.0}, at(2.0))
        except NothingToRollBack:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        made = sum(pool.map(change, range(60)))
    assert len(targets_of(registry, TONE)) == 1
    assert len(actions(registry)) == before + made


def test_a_database_failure_is_reported_without_details(tmp_path: Path) -> None:
    engine = db.create_engine(f"sqlite:///{tmp_path / 'without-tables'}")
    registry = Registry(engine)
    version = manifest("a1").version_id(TONE)
    calls: list[Callable[[], object]] = [
        registry.snapshot,
        lambda: registry.get(TONE),
        lambda: registry.effect_check(version),
        lambda: registry.audit(None, 1),
        lambda: registry.has_content("a" * 64),
        lambda: registry.add_use_counts({version: 1}),
        lambda: registry.remove(TONE, at(1.0)),
        lambda: registry.add_version(TONE, manifest("a1"), SOURCE, at(1.0)),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=r"^The adapter registry can't be read or written\.$"):
            call()
    engine.dispose()


@pytest.mark.slow
def test_ten_thousand_adapters_are_listed_within_seconds(registry: Registry) -> None:
    fill(registry, 10_000)
    started = time.process_time()
    assert len(registry.snapshot()) == 10_000
    assert time.process_time() - started < 2  # 0.5 s on a busy machine.
