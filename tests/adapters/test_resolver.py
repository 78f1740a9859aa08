from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.errors import StoreError, VersionNotFound, VersionNotReady, VersionQuarantined
from loramux_adapters.intake.store import Store
from loramux_adapters.models import AdapterName, BaseSpec, Digest, VersionId, VersionState
from loramux_adapters.registry.registry import AdapterRecord, VersionRecord
from loramux_adapters.resolver import Catalogue
from tests.helpers.adapter_files import BASE
from tests.helpers.registry_records import manifest

TONE, OTHER = AdapterName("support-tone"), AdapterName("other")
PROVING, READY = VersionState.PROVING, VersionState.READY
REJECTED, QUARANTINED = VersionState.REJECTED, VersionState.QUARANTINED


def version_of(
    name: AdapterName, digest: str, weight: float = 0.0, state: VersionState = READY, base: BaseSpec = BASE
) -> VersionRecord:
    content = manifest(digest).model_copy(update={"base": base})
    return VersionRecord(content.version_of(name), content, {}, state, 1.0, weight, None, 0)


def record(name: AdapterName, *versions: VersionRecord) -> AdapterRecord:
    return AdapterRecord(name, 1.0, False, versions)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def catalogue_of(store: Store, *records: AdapterRecord, base: BaseSpec = BASE) -> Catalogue:
    return Catalogue(records, store, base)


def test_a_bare_name_leads_to_its_target_and_each_version_to_itself(store: Store) -> None:
    old, new = version_of(TONE, "a1"), version_of(TONE, "a2", 1.0)
    catalogue = catalogue_of(store, record(TONE, old, new))
    assert [catalogue.resolve(name) for name in (TONE, str(old.id), str(new.id))] == [new.id, old.id, new.id]
    assert catalogue.path(old.id) == store.path(old.manifest.digest)


def test_what_is_not_registered_leads_nowhere(store: Store) -> None:
    version = version_of(TONE, "a1", 1.0)
    catalogue = catalogue_of(store, record(TONE, version))
    nobody = f"nobody@{version.id.digest}"
    for name in ("", "nobody", nobody, "support-tone@", "support-tone@000000000000", "../support-tone", "\ud800"):
        assert catalogue.resolve(name) is None
        assert catalogue.get(name) is None
        assert catalogue.version(name) is None


@pytest.mark.parametrize(
    ("state", "error"),
    [(PROVING, VersionNotReady), (REJECTED, VersionNotReady), (QUARANTINED, VersionQuarantined)],
)
def test_a_version_that_does_not_serve_says_so_and_is_told_from_one_that_is_not_there(
    store: Store, state: VersionState, error: type[VersionNotReady]
) -> None:
    version = version_of(TONE, "a1", state=state)
    catalogue = catalogue_of(store, record(TONE, version))
    for name in (TONE, str(version.id)):
        with pytest.raises(VersionNotReady) as caught:
            catalogue.resolve(name)
        assert type(caught.value) is error
        assert name in caught.value.message
    assert catalogue.version(str(version.id)) == version


def test_a_ready_version_that_was_not_promoted_serves_by_its_digest_alone(store: Store) -> None:
    version = version_of(TONE, "a1")
    catalogue = catalogue_of(store, record(TONE, version))
    assert catalogue.resolve(str(version.id)) == version.id
    with pytest.raises(VersionNotReady, match="promote"):
        catalogue.resolve(TONE)


def test_a_new_record_takes_the_place_of_the_old_one(store: Store) -> None:
    first, second = version_of(TONE, "a1", 1.0), version_of(TONE, "a2", 1.0)
    other = version_of(OTHER, "b1", 1.0)
    catalogue = catalogue_of(store, record(TONE, first), record(OTHER, other))
    catalogue.put(record(TONE, second))
    assert catalogue.resolve(TONE) == second.id
    assert catalogue.resolve(str(first.id)) is None
    with pytest.raises(KeyError):
        catalogue.path(first.id)
    assert [adapter.name for adapter in catalogue.adapters()] == [OTHER, TONE]
    assert catalogue.resolve(str(other.id)) == other.id


def test_a_dropped_adapter_is_gone_with_all_its_versions(store: Store) -> None:
    version, other = version_of(TONE, "a1", 1.0), version_of(OTHER, "b1", 1.0)
    catalogue = catalogue_of(store, record(TONE, version), record(OTHER, other))
    catalogue.drop(TONE)
    catalogue.drop(TONE)
    assert catalogue.resolve(TONE) is None
    assert catalogue.resolve(str(version.id)) is None
    assert [catalogue.resolve(name) for name in (OTHER, str(other.id))] == [other.id, other.id]


def test_what_was_accepted_for_another_base_is_not_served_on_this_one(store: Store) -> None:
    version = version_of(TONE, "a1", 1.0)
    twin = BASE.model_copy(update={"name": "another-model-of-the-same-shapes"})
    catalogue = catalogue_of(store, record(TONE, version), base=twin)
    assert catalogue.resolve(TONE) is None
    assert catalogue.adapters() == []


def test_a_name_with_a_target_of_another_base_leads_to_what_is_left(store: Store) -> None:
    twin = BASE.model_copy(update={"name": "another-model-of-the-same-shapes"})
    mine, foreign = version_of(TONE, "a1", 1.0), version_of(TONE, "a2", 1.0, base=twin)
    catalogue = catalogue_of(store, record(TONE, mine, foreign))
    assert {catalogue.resolve(TONE, str(user)) for user in range(50)} == {mine.id}


def test_a_withdrawn_canary_leaves_its_share_to_the_others_at_once(store: Store) -> None:
    stable, canary = version_of(TONE, "a1", 0.5), version_of(TONE, "a2", 0.5)
    catalogue = catalogue_of(store, record(TONE, stable, canary))
    catalogue.withdraw(canary.id, "corrupt")
    assert {catalogue.resolve(TONE, str(user)) for user in range(50)} == {stable.id}
    with pytest.raises(VersionQuarantined):
        catalogue.resolve(str(canary.id))
    withdrawn = catalogue.version(str(canary.id))
    assert withdrawn == replace(canary, state=QUARANTINED, reason="corrupt", weight=0.0)


def test_a_name_whose_only_version_is_withdrawn_says_so(store: Store) -> None:
    version = version_of(TONE, "a1", 1.0)
    catalogue = catalogue_of(store, record(TONE, version))
    catalogue.withdraw(version.id, "corrupt")
    with pytest.raises(VersionQuarantined):
        catalogue.resolve(TONE)


def test_withdrawing_what_is_not_there_changes_nothing(store: Store) -> None:
    version = version_of(TONE, "a1", 1.0)
    catalogue = catalogue_of(store, record(TONE, version))
    catalogue.withdraw(VersionId(TONE, Digest("0" * 12)), "corrupt")
    catalogue.withdraw(VersionId(OTHER, version.id.digest), "corrupt")
    assert catalogue.adapters() == [record(TONE, version)]


def test_files_that_are_missing_are_told_when_they_are_verified(store: Store) -> None:
    version = version_of(TONE, "a1", 1.0)
    catalogue = catalogue_of(store, record(TONE, version))
    with pytest.raises(StoreError):
        catalogue.verify(version.id)
    with pytest.raises(VersionNotFound):
        catalogue.verify(VersionId(OTHER, version.id.digest))


def split(store: Store, weights: list[float]) -> Catalogue:
    """A catalogue of one name that is split over as many versions, the oldest first."""
    versions = [version_of(TONE, f"{number:012x}", weight) for number, weight in enumerate(weights)]
    return catalogue_of(store, record(TONE, *versions))


def chosen(catalogue: Catalogue, user: str) -> int:
    """The number of the version that `user` gets."""
    version = catalogue.resolve(TONE, user)
    assert version is not None
    return int(version.digest, 16)


@pytest.mark.parametrize("weights", [[95, 5], [1, 1, 1], [0.001, 0.999], [7, 1, 2]])
def test_each_version_gets_its_share_of_ten_thousand_users(store: Store, weights: list[float]) -> None:
    catalogue = split(store, weights)
    users = [chosen(catalogue, f"user-{number}") for number in range(10_000)]
    for number, weight in enumerate(weights):
        assert abs(users.count(number) / len(users) - weight / sum(weights)) < 0.02


def test_requests_of_nobody_in_particular_are_spread_by_the_shares(store: Store) -> None:
    catalogue = split(store, [3, 1])
    found = [catalogue.resolve(TONE, None) for _ in range(10_000)]
    canary = sum(1 for version in found if version and int(version.digest, 16) == 1)
    assert abs(canary / len(found) - 0.25) < 0.03


WEIGHTS = st.lists(st.floats(min_value=1e-300, max_value=1e300), min_size=1, max_size=5)


@given(WEIGHTS, st.text())
def test_the_same_user_gets_the_same_version_also_after_a_restart(weights: list[float], user: str) -> None:
    store = Store.__new__(Store)  # nothing here touches a disk
    first, again = split(store, weights), split(store, weights)
    assert chosen(first, user) == chosen(first, user) == chosen(again, user) < len(weights)


@given(st.floats(0.01, 0.98), st.floats(0.0, 1.0), st.text())
def test_whoever_is_in_a_canary_stays_in_it_while_it_grows(share: float, more: float, user: str) -> None:
    store = Store.__new__(Store)
    wider = share + (0.99 - share) * more
    if chosen(split(store, [1 - share, share]), user) == 1:
        assert chosen(split(store, [1 - wider, wider]), user) == 1


def test_two_adapters_do_not_put_the_same_users_into_their_canaries(store: Store) -> None:
    records = [record(name, version_of(name, "a1", 1), version_of(name, "a2", 1)) for name in (TONE, OTHER)]
    catalogue = catalogue_of(store, *records)
    found = [[catalogue.resolve(name, str(user)) for user in range(200)] for name in (TONE, OTHER)]
    sides = [[version is not None and version.digest.startswith("a1") for version in column] for column in found]
    assert 40 < sum(one == other for one, other in zip(*sides, strict=True)) < 160
