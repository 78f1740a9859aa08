from hypothesis import given
from hypothesis import strategies as st

from loramux_server.engine.lora_ranks import LORA_RANKS, max_lora_rank


@given(st.lists(st.integers(1, 512)))
def test_max_lora_rank_is_the_lowest_that_admits_every_adapter(ranks: list[int]) -> None:
    limit = max_lora_rank(ranks)
    assert limit >= max([16, *ranks])
    assert limit in LORA_RANKS
    assert not any(max([16, *ranks]) <= lower < limit for lower in LORA_RANKS)


def test_a_rank_above_all_limits_gets_the_highest() -> None:
    assert max_lora_rank([100_000]) == LORA_RANKS[-1]
