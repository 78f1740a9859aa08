"""Time ranges and the times that users write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_server.metering.ledger.time_range import MAX_SECONDS, TimeRange, format_time, parse_time

TIMES = st.floats(0, 4e9)


@given(TIMES, st.floats(1, 1e8))
def test_a_rounded_range_is_extended_by_less_than_an_hour_to_whole_hours(since: float, length: float) -> None:
    asked = TimeRange(since, since + length)
    found = asked.rounded(since=True, until=True)
    assert asked.since - 3600 < found.since <= asked.since
    assert asked.until <= found.until < asked.until + 3600
    assert found.since % 3600 == found.until % 3600 == 0
    assert not found.edges
    assert asked.rounded() == asked
    assert asked.rounded(since=True).until == asked.until


@given(st.floats(-MAX_SECONDS, MAX_SECONDS))
def test_every_time_that_is_read_can_be_formatted(seconds: float) -> None:
    assert format_time(parse_time(repr(seconds))).endswith("Z")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e300", "-1e11", "yesterday", "", "\u0661x", "0001-01-01"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_time(text)
