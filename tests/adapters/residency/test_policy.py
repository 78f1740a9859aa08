from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_adapters.residency.policy import Load, Resident, Wait, plan

versions = st.builds(
    lambda number: VersionId(AdapterName(f"a{number}"), Digest(f"{number:012x}")), st.integers(0, 1000)
)
residents = st.builds(Resident, used=st.integers(0, 10_000), leases=st.integers(0, 2), loading=st.booleans())
populations = st.dictionaries(versions, residents, max_size=20)


@given(populations)
def test_a_free_place_costs_nobody_theirs(population: dict[VersionId, Resident]) -> None:
    assert plan(population, capacity=len(population) + 1) == Load(evict=None)


@given(populations.filter(bool))
def test_the_victim_is_the_least_recently_used_that_nobody_needs(population: dict[VersionId, Resident]) -> None:
    action = plan(population, capacity=len(population))
    idle = {version: resident.used for version, resident in population.items() if resident.is_evictable}
    if isinstance(action, Wait):
        assert not idle
    else:
        assert action.evict is not None
        assert idle[action.evict] == min(idle.values())


def test_what_is_leased_or_loading_keeps_its_place() -> None:
    assert not Resident(used=1, leases=1).is_evictable
    assert not Resident(used=1, loading=True).is_evictable
    assert Resident(used=1).is_evictable
