from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.errors import (
    AliasTargetMissing,
    InvalidAlias,
    StoreError,
    VersionNotFound,
    VersionNotReady,
    VersionQuarantined,
)
from loramux_adapters.intake.store import VersionStore
from loramux_adapters.models import AdapterName, BaseSpec, Digest, VersionId, VersionState
from loramux_adapters.registry.registry import AdapterRecord, VersionRecord
from loramux_adapters.resolver import AdapterResolver
from tests.helpers.adapter_files import BASE
from tests.helpers.registry_records import manifest

TONE, OTHER = AdapterName("support-tone"), AdapterName("other")
PROVING, READY = VersionState.CHECKING, VersionState.READY
REJECTED, QUARANTINED = VersionState.REJECTED, VersionState.QUARANTINED


def version_of(
    name: AdapterName, digest: str, weight: float = 0.0, state: VersionState = READY, base: BaseSpec = BASE.spec
) -> VersionRecord:
    content = manifest(digest).model_copy(update={"base": base})
    return VersionRecord(content.version_id(name), content, {}, state, 1.0, weight, None, 0)


def record(name: AdapterName, *versions: VersionRecord) -> AdapterRecord:
    return AdapterRecord(name, 1.0, False, versions)


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "store")


def resolver_of(store: VersionStore, *records: AdapterRecord, base: BaseSpec = BASE.spec) -> AdapterResolver:
    return AdapterResolver(records, store, base)


def test_a_bare_name_resolves_to_its_target_and_each_version_to_itself(store: VersionStore) -> None:
    old, new = version_of(TONE, "a1"), version_of(TONE, "a2", 1.0)
    resolver = resolver_of(store, record(TONE, old, new))
    assert [resolver.resolve(name) for name in (TONE, str(old.id), str(new.id))] == [new.id, old.id, new.id]
    assert resolver.path(old.id) == store.path(old.manifest.digest)


def test_unregistered_names_resolve_to_nothing(store: VersionStore) -> None:
    version = version_of(TONE, "a1", 1.0)
    resolver = resolver_of(store, record(TONE, version))
    nobody = f"nobody@{version.id.digest}"
    for name in ("", "nobody", nobody, "support-tone@", "support-tone@000000000000", "../support-tone", "\ud800"):
        assert resolver.resolve(name) is None
        assert resolver.get(name) is None
        assert resolver.version(name) is None


@pytest.mark.parametrize(
    ("state", "error"),
    [(PROVING, VersionNotReady), (REJECTED, VersionNotReady), (QUARANTINED, VersionQuarantined)],
)
def test_a_version_that_is_not_served_is_distinguished_from_an_unknown_one(
    store: VersionStore, state: VersionState, error: type[VersionNotReady]
) -> None:
    version = version_of(TONE, "a1", state=state)
    resolver = resolver_of(store, record(TONE, version))
    for name in (TONE, str(version.id)):
        with pytest.raises(VersionNotReady) as caught:
            resolver.resolve(name)
        assert type(caught.value) is error
        assert name in caught.value.message
    assert resolver.version(str(version.id)) == version


def test_a_ready_version_that_was_not_promoted_is_served_by_its_digest_only(store: VersionStore) -> None:
    version = version_of(TONE, "a1")
    resolver = resolver_of(store, record(TONE, version))
    assert resolver.resolve(str(version.id)) == version.id
    with pytest.raises(VersionNotReady, match="promote"):
        resolver.resolve(TONE)


def test_a_new_record_replaces_the_old_one(store: VersionStore) -> None:
    first, second = version_of(TONE, "a1", 1.0), version_of(TONE, "a2", 1.0)
    other = version_of(OTHER, "b1", 1.0)
    resolver = resolver_of(store, record(TONE, first), record(OTHER, other))
    resolver.put(record(TONE, second))
    assert resolver.resolve(TONE) == second.id
    assert resolver.resolve(str(first.id)) is None
    with pytest.raises(KeyError):
        resolver.path(first.id)
    assert [adapter.name for adapter in resolver.adapters()] == [OTHER, TONE]
    assert resolver.resolve(str(other.id)) == other.id


def test_an_adapter_is_removed_with_all_its_versions(store: VersionStore) -> None:
    version, other = version_of(TONE, "a1", 1.0), version_of(OTHER, "b1", 1.0)
    resolver = resolver_of(store, record(TONE, version), record(OTHER, other))
    resolver.remove(TONE)
    resolver.remove(TONE)
    assert resolver.resolve(TONE) is None
    assert resolver.resolve(str(version.id)) is None
    assert [resolver.resolve(name) for name in (OTHER, str(other.id))] == [other.id, other.id]


def test_an_adapter_of_another_base_is_not_served(store: VersionStore) -> None:
    version = version_of(TONE, "a1", 1.0)
    twin = BASE.spec.model_copy(update={"name": "another-model-of-the-same-shapes"})
    resolver = resolver_of(store, record(TONE, version), base=twin)
    assert resolver.resolve(TONE) is None
    assert resolver.adapters() == []


def test_targets_of_another_base_are_left_out_of_a_split(store: VersionStore) -> None:
    twin = BASE.spec.model_copy(update={"name": "another-model-of-the-same-shapes"})
    mine, foreign = version_of(TONE, "a1", 1.0), version_of(TONE, "a2", 1.0, base=twin)
    resolver = resolver_of(store, record(TONE, mine, foreign))
    assert {resolver.resolve(TONE, str(user)) for user in range(50)} == {mine.id}


def test_the_share_of_a_quarantined_canary_goes_to_the_other_targets(store: VersionStore) -> None:
    stable, canary = version_of(TONE, "a1", 0.5), version_of(TONE, "a2", 0.5)
    resolver = resolver_of(store, record(TONE, stable, canary))
    resolver.quarantine(canary.id, "corrupt")
    assert {resolver.resolve(TONE, str(user)) for user in range(50)} == {stable.id}
    with pytest.raises(VersionQuarantined):
        resolver.resolve(str(canary.id))
    quarantined = resolver.version(str(canary.id))
    assert quarantined == replace(canary, state=QUARANTINED, reason="corrupt", weight=0.0)


def test_a_name_whose_only_version_is_quarantined_says_so(store: VersionStore) -> None:
    version = version_of(TONE, "a1", 1.0)
    resolver = resolver_of(store, record(TONE, version))
    resolver.quarantine(version.id, "corrupt")
    with pytest.raises(VersionQuarantined):
        resolver.resolve(TONE)


def test_quarantining_an_unknown_version_changes_nothing(store: VersionStore) -> None:
    version = version_of(TONE, "a1", 1.0)
    resolver = resolver_of(store, record(TONE, version))
    resolver.quarantine(VersionId(TONE, Digest("0" * 12)), "corrupt")
    resolver.quarantine(VersionId(OTHER, version.id.digest), "corrupt")
    assert resolver.adapters() == [record(TONE, version)]


def test_verifying_missing_files_or_an_unknown_version_fails(store: VersionStore) -> None:
    version = version_of(TONE, "a1", 1.0)
    resolver = resolver_of(store, record(TONE, version))
    with pytest.raises(StoreError):
        resolver.verify(version.id)
    with pytest.raises(VersionNotFound):
        resolver.verify(VersionId(OTHER, version.id.digest))


def split(store: VersionStore, weights: list[float]) -> AdapterResolver:
    """Return a resolver with one name that is split over as many versions as weights, oldest first."""
    versions = [version_of(TONE, f"{number:012x}", weight) for number, weight in enumerate(weights)]
    return resolver_of(store, record(TONE, *versions))


def chosen(resolver: AdapterResolver, user: str) -> int:
    """Return the number of the version that `user` gets."""
    version = resolver.resolve(TONE, user)
    assert version is not None
    return int(version.digest, 16)


@pytest.mark.parametrize("weights", [[95, 5], [1, 1, 1], [0.001, 0.999], [7, 1, 2]])
def test_each_version_gets_its_share_of_ten_thousand_users(store: VersionStore, weights: list[float]) -> None:
    resolver = split(store, weights)
    users = [chosen(resolver, f"user-{number}") for number in range(10_000)]
    for number, weight in enumerate(weights):
        assert abs(users.count(number) / len(users) - weight / sum(weights)) < 0.02


def test_requests_without_a_sticky_key_are_distributed_by_the_shares(store: VersionStore) -> None:
    resolver = split(store, [3, 1])
    found = [resolver.resolve(TONE, None) for _ in range(10_000)]
    canary = sum(1 for version in found if version and int(version.digest, 16) == 1)
    assert abs(canary / len(found) - 0.25) < 0.03


WEIGHTS = st.lists(st.floats(min_value=1e-300, max_value=1e300), min_size=1, max_size=5)


@given(WEIGHTS, st.text())
def test_a_user_gets_the_same_version_after_a_restart(weights: list[float], user: str) -> None:
    store = VersionStore.__new__(VersionStore)  # nothing here touches a disk
    first, again = split(store, weights), split(store, weights)
    assert chosen(first, user) == chosen(first, user) == chosen(again, user) < len(weights)


@given(st.floats(0.01, 0.98), st.floats(0.0, 1.0), st.text())
def test_a_user_of_a_canary_stays_in_it_while_it_grows(share: float, more: float, user: str) -> None:
    store = VersionStore.__new__(VersionStore)
    wider = share + (0.99 - share) * more
    if chosen(split(store, [1 - share, share]), user) == 1:
        assert chosen(split(store, [1 - wider, wider]), user) == 1


def test_two_adapters_do_not_put_the_same_users_into_their_canaries(store: VersionStore) -> None:
    records = [record(name, version_of(name, "a1", 1), version_of(name, "a2", 1)) for name in (TONE, OTHER)]
    resolver = resolver_of(store, *records)
    found = [[resolver.resolve(name, str(user)) for user in range(200)] for name in (TONE, OTHER)]
    sides = [[version is not None and version.digest.startswith("a1") for version in column] for column in found]
    assert 40 < sum(one == other for one, other in zip(*sides, strict=True)) < 160


def test_an_alias_resolves_to_what_its_target_points_at(store: VersionStore) -> None:
    old, new = version_of(TONE, "a1"), version_of(TONE, "a2", 1.0)
    resolver = resolver_of(store, record(TONE, old, new))
    resolver.set_aliases({"gpt": TONE, "pinned": str(old.id), "base": BASE.spec.name, "gone": "nobody"})
    assert resolver.resolve("gpt") == new.id
    assert resolver.resolve(f"gpt@{old.id.digest}") == old.id
    assert resolver.resolve("pinned") == old.id
    assert resolver.resolve("base") is None
    assert [resolver.is_base(name) for name in ("base", BASE.spec.name, "gpt", "nobody")] == [True, True, False, False]
    with pytest.raises(AliasTargetMissing, match="`gone` is an alias of `nobody`"):
        resolver.resolve("gone")
    for name in (f"pinned@{new.id.digest}", f"base@{new.id.digest}", "gpt@", "gpt@000000000000", "\ud800", "@", "@@"):
        assert resolver.resolve(name) is None


def test_the_users_of_a_split_get_the_same_version_by_an_alias(store: VersionStore) -> None:
    resolver = resolver_of(store, record(TONE, version_of(TONE, "a1", 1.0), version_of(TONE, "a2", 1.0)))
    resolver.set_aliases({"gpt": TONE})
    users = [f"user-{number}" for number in range(50)]
    assert [resolver.resolve("gpt", user) for user in users] == [resolver.resolve(TONE, user) for user in users]


def test_a_model_s_own_name_precedes_an_equal_alias(store: VersionStore) -> None:
    tone, other = version_of(TONE, "a1", 1.0), version_of(OTHER, "a2", 1.0)
    resolver = resolver_of(store, record(TONE, tone), record(OTHER, other))
    resolver.set_aliases({TONE: OTHER, BASE.spec.name: OTHER})
    assert resolver.resolve(TONE) == tone.id
    assert resolver.resolve(BASE.spec.name) is None
    assert resolver.is_base(BASE.spec.name)


def test_an_alias_of_an_adapter_names_it_and_others_say_what_they_are(store: VersionStore) -> None:
    version = version_of(TONE, "a1", 1.0)
    resolver = resolver_of(store, record(TONE, version))
    resolver.set_aliases({"gpt": TONE, "pinned": str(version.id), "base": BASE.spec.name, "gone": "nobody"})
    assert [resolver.adapter_name(AdapterName(name)) for name in ("gpt", TONE, "unknown")] == [TONE, TONE, "unknown"]
    for name, words in (("pinned", "one version"), ("base", "the base")):
        with pytest.raises(InvalidAlias, match=words):
            resolver.adapter_name(AdapterName(name))
    with pytest.raises(AliasTargetMissing):
        resolver.adapter_name(AdapterName("gone"))
