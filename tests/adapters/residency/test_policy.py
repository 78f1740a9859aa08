from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_adapters.residency.policy import LoadNow, ResidentState, WaitForRelease, plan_eviction

versions = st.builds(
    lambda number: VersionId(AdapterName(f"a{number}"), Digest(f"{number:012x}")), st.integers(0, 1000)
)
residents = st.builds(ResidentState, last_used=st.integers(0, 10_000), leases=st.integers(0, 2), loading=st.booleans())
populations = st.dictionaries(versions, residents, max_size=20)


@given(populations)
def test_with_free_capacity_nothing_is_evicted(population: dict[VersionId, ResidentState]) -> None:
    assert plan_eviction(population, capacity=len(population) + 1) == LoadNow(evict=None)


@given(populations.filter(bool))
def test_the_least_recently_used_evictable_version_is_evicted(population: dict[VersionId, ResidentState]) -> None:
    action = plan_eviction(population, capacity=len(population))
    idle = {version: resident.last_used for version, resident in population.items() if resident.is_evictable}
    if isinstance(action, WaitForRelease):
        assert not idle
    else:
        assert action.evict is not None
        assert idle[action.evict] == min(idle.values())


def test_leased_and_loading_versions_are_not_evictable() -> None:
    assert not ResidentState(last_used=1, leases=1).is_evictable
    assert not ResidentState(last_used=1, loading=True).is_evictable
    assert ResidentState(last_used=1).is_evictable
