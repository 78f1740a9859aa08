"""Combining the runs of a request."""

import pytest

from loramux_server.metering.usage_record import Route, RunStats, combine


def test_a_route_is_the_base_or_an_adapter() -> None:
    assert Route().kind == "base"
    assert Route("tone", "3f9c2ab01d44").kind == "adapter"


@pytest.mark.parametrize(
    ("tokens", "sequences", "expected"), [(11, 1, 0.2), (22, 2, 0.2), (1, 1, None), (2, 2, None), (0, 1, None)]
)
def test_time_per_output_token_is_that_of_a_sequence(tokens: int, sequences: int, expected: float | None) -> None:
    stats = RunStats(output_tokens=tokens, sequences=sequences, first_token=1.0, last_token=3.0)
    assert stats.time_per_output_token == expected


def test_time_per_output_token_is_unknown_without_a_first_token() -> None:
    assert RunStats(output_tokens=5).time_per_output_token is None


def test_one_run_combines_to_itself() -> None:
    run = RunStats(input_tokens=3, output_tokens=2, first_token=0.1, last_token=0.2, finish_reason="stop", cold=True)
    assert combine([run]) == run


def test_runs_combine_to_sums_of_tokens_and_the_span_of_their_moments() -> None:
    one = RunStats(
        input_tokens=3, cached_tokens=1, output_tokens=4, lease_wait=0.5, queue=0.1, first_token=0.6, last_token=0.9,
        finish_reason="stop", preemptions=1, cold=True,
    )  # fmt: skip
    two = RunStats(
        input_tokens=5, cached_tokens=2, output_tokens=6, sequences=2, queue=0.3, first_token=0.4, last_token=0.8,
        finish_reason="length", preemptions=2, corrupted=True,
    )  # fmt: skip
    cut_off = RunStats(input_tokens=7)
    assert combine([one, two, cut_off]) == RunStats(
        input_tokens=15, cached_tokens=3, output_tokens=10, sequences=4, lease_wait=0.5, queue=0.3, first_token=0.4,
        last_token=0.9, finish_reason=None, preemptions=3, corrupted=True, cold=True,
    )  # fmt: skip


def test_a_shared_reason_to_finish_is_kept() -> None:
    assert combine([RunStats(finish_reason="stop"), RunStats(finish_reason="stop")]).finish_reason == "stop"


def test_no_runs_combine_to_nothing_used() -> None:
    nothing = combine([])
    assert (nothing.input_tokens, nothing.output_tokens, nothing.first_token) == (0, 0, None)


def test_shifting_moves_moments_and_leaves_durations() -> None:
    stats = RunStats(lease_wait=0.5, queue=0.1, first_token=0.6, last_token=0.9)
    assert stats.shifted(1.0) == RunStats(lease_wait=0.5, queue=0.1, first_token=1.6, last_token=1.9)
    assert RunStats().shifted(1.0) == RunStats()
