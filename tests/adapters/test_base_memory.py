import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loramux_adapters.base_memory import BaseMemory


def memory(*samples: tuple[int, int], max_context: int = 1024) -> BaseMemory:
    return BaseMemory(
        weight_bytes=1, dtype="float16", values_per_token=1, max_context=max_context, request_samples=samples
    )


FULL = memory((16, 1600), (1024, 102_400))
"""100 bytes per token, in blocks of 16."""
WINDOW = memory((16, 1600), (256, 25_600), (1024, 25_600))
"""A sliding window of 256 tokens."""


def test_a_requests_cache_grows_evenly_between_samples() -> None:
    assert [FULL.request_bytes(tokens) for tokens in (1, 16, 32, 512, 1024, 2048)] == [
        1600, 1600, 3200, 51_200, 102_400, 204_800,
    ]  # fmt: skip
    assert [WINDOW.request_bytes(tokens) for tokens in (128, 256, 512, 1024)] == [12_800, 25_600, 25_600, 25_600]


def test_one_more_token_costs_nothing_behind_a_window() -> None:
    assert (FULL.bytes_per_token, WINDOW.bytes_per_token) == (100, 0)


@pytest.mark.parametrize(("free", "tokens"), [(-1, 0), (0, 0), (1599, 0), (1600, 16), (51_200, 512), (1 << 60, 1024)])
def test_the_longest_request_is_the_longest_that_fits(free: int, tokens: int) -> None:
    assert FULL.longest_request(free) == tokens


def test_a_window_that_fits_lets_any_length_fit() -> None:
    assert (WINDOW.longest_request(25_599), WINDOW.longest_request(25_600)) == (255, 1024)


@given(
    st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(0, 1 << 40)), min_size=2, max_size=8),
    st.integers(0, 1 << 41),
)
def test_no_longer_request_fits(points: list[tuple[int, int]], free: int) -> None:
    lengths, sizes = sorted({tokens for tokens, _ in points}), sorted(size for _, size in points)
    if len(lengths) < 2:
        return
    found = memory(*zip(lengths, sizes, strict=False))
    longest = found.longest_request(free)
    assert longest == 0 or found.request_bytes(longest) <= free
    assert longest == lengths[-1] or found.request_bytes(longest + 1) > free


@pytest.mark.parametrize(
    "samples",
    [(), ((16, 1),), ((16, 1), (16, 2)), ((32, 1), (16, 2)), ((16, 2), (32, 1)), ((0, 1), (16, 2)), ((1, -1), (2, 1))],
)
def test_samples_that_can_not_be_are_refused(samples: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValidationError):
        memory(*samples)
