import pytest

from loramux_loadtests.loadtest.goals import parse_goal
from loramux_loadtests.loadtest.rate_trial import RateWatch, judge_rate
from loramux_loadtests.loadtest.rows import RequestRow
from loramux_loadtests.loadtest.steady_state import measure_steady_state
from tests.helpers.load_rows import failed, row

GOAL = parse_goal("errors<0.01")


def load(rate: float, seconds: float, latency: float = 1.0, growth: float = 0.0) -> list[RequestRow]:
    """Requests at equal intervals, whose latency grows by `growth` seconds per second."""
    times = [number / rate for number in range(int(rate * seconds))]
    return [
        row(number=n, scheduled=at, sent=at, first=at, last=at + latency + growth * at) for n, at in enumerate(times)
    ]


def test_a_server_that_answers_half_of_what_is_sent_does_not_keep_up() -> None:
    """T6: "met up to 8 requests/s" while 4.6/s were answered and 23 waited."""
    trial = judge_rate(8, GOAL, load(8, 60, growth=0.74), 60.0)
    assert not trial.met
    assert trial.reasons[0].startswith("4.")
    assert "of 8 sent" in trial.reasons[0]
    assert trial.state.answered_rate == pytest.approx(8 / 1.74, rel=0.1)
    assert judge_rate(8, GOAL, load(8, 60), 60.0).met


def test_requests_that_pile_up_slowly_are_seen_though_nearly_all_are_answered() -> None:
    trial = judge_rate(4, GOAL, load(4, 300, growth=0.045), 300.0)
    assert trial.state.answered_share > 0.95
    assert [reason.partition(":")[0] for reason in trial.reasons] == ["requests piled up"]


def test_the_start_and_the_end_of_a_load_do_not_count() -> None:
    """An empty server has to fill first, and answers after the end are late."""
    rows = load(4, 100, latency=10)
    state = measure_steady_state([one.scheduled for one in rows], rows, 100.0)
    assert (state.begin, state.in_flight_first, state.in_flight_last) == pytest.approx((20, 40, 40), rel=0.01)
    assert state.answered_share == pytest.approx(1, abs=0.01)
    assert state.answered_rate == pytest.approx(4, rel=0.02)


def test_failed_requests_are_not_answered() -> None:
    good = load(4, 100)
    rows = [
        failed(scheduled=one.scheduled, sent=one.sent, last=one.last) if n % 5 == 0 else one
        for n, one in enumerate(good)
    ]
    trial = judge_rate(4, parse_goal("errors<0.5"), rows, 100.0)
    assert "3.19 requests/s were answered of 4 sent" in trial.reasons[0]


def test_a_percentile_of_few_requests_is_not_met() -> None:
    trial = judge_rate(1, parse_goal("ttft_p99<9"), load(1, 200), 200.0)
    assert not trial.met
    assert not trial.is_conclusive
    assert "too few to judge ttft_p99<9: 368 are needed" in trial.reasons[0]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_load_of_hardly_any_request_is_not_judged(count: int) -> None:
    rows = load(1, count)
    assert not judge_rate(1, GOAL, rows, 10.0).met


def watched(rows: list[RequestRow], watch: RateWatch) -> float | None:
    for one in rows:
        if watch.is_enough(one.scheduled, [other for other in rows if other.last <= one.scheduled]):
            break
    return watch.ended_at


def test_a_rate_runs_as_long_as_its_latency_demands() -> None:
    quick = watched(load(4, 300), RateWatch(4, GOAL, 10, 300))
    slow = watched(load(4, 300, latency=20), RateWatch(4, GOAL, 10, 300))
    assert quick is not None
    assert slow is not None
    assert quick < 45
    assert 100 <= slow < 250


def test_a_confirmed_rate_is_judged_for_the_whole_time_without_its_beginning() -> None:
    rows = load(4, 800, latency=4)
    end = watched(rows, RateWatch(4, GOAL, 10, 300, judged_seconds=60))
    assert end is not None
    assert 60 <= judge_rate(4, GOAL, [row for row in rows if row.scheduled < end], end).state.seconds < 70


def test_an_overload_ends_a_run_early() -> None:
    overload = watched(load(8, 300, growth=0.5), RateWatch(8, GOAL, 10, 300))
    assert overload is not None
    assert overload < 60
    above_capacity = watched(load(4, 300, growth=0.2), RateWatch(4, GOAL, 30, 300, capacity=3.5))
    assert above_capacity == 30
