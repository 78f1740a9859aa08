from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.goals import parse_goal, required_requests
from tests.helpers.load_rows import failed, row


def test_a_goal_is_read_part_by_part() -> None:
    goal = parse_goal(" ttft_p95<0.5, tpot_p99.9 < 1e-2,errors<0.01,ttft_scheduled_p50<3 ")
    assert str(goal) == "ttft_p95<0.5,tpot_p99.9<0.01,errors<0.01,ttft_scheduled_p50<3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ttft<1",
        "ttft_p95>1",
        "ttft_p95<",
        "speed_p50<1",
        "ttft_p999<1",
        "ttft_p95<1.2.3",
        "errors<x",
        "errors_p95<1",
    ],
)
def test_an_invalid_goal_is_refused(text: str) -> None:
    with pytest.raises(LoadTestError, match=r"invalid goal|unknown measure"):
        parse_goal(text)


@given(st.text(max_size=40))
def test_any_text_is_a_goal_or_refused(text: str) -> None:
    with suppress(LoadTestError):
        goal = parse_goal(text)
        assert parse_goal(str(goal)) == goal


def test_missed_terms_are_listed_with_the_measured_values() -> None:
    rows = [row(sent=0.0, first=0.1 * n, last=1.0) for n in range(1, 10)]
    assert parse_goal("ttft_p50<0.6,errors<0.1").missed_terms(rows) == []
    assert parse_goal("ttft_p50<0.5,errors<0.1").missed_terms(rows) == ["ttft_p50<0.5: 0.5"]
    assert parse_goal("errors<0.1").missed_terms([*rows, failed()]) == ["errors<0.1: 0.1"]


def test_nothing_is_met_without_an_answer() -> None:
    assert parse_goal("tpot_p50<1").missed_terms([failed()]) == ["tpot_p50<1: no answer"]


def test_a_goal_of_what_no_answer_has_is_not_met() -> None:
    """Answers of one token have no time per token."""
    assert parse_goal("tpot_p50<9").missed_terms([row(output_tokens=1)]) == ["tpot_p50<9: not measured"]
    assert parse_goal("tpot_p50<9").missed_terms([row(output_tokens=1), row()]) == []


@pytest.mark.parametrize(("goal", "count"), [("errors<1", 1), ("ttft_p50<1", 6), ("ttft_p50<1,tpot_p95<1", 72)])
def test_a_percentile_needs_so_many_requests_that_the_slowest_bounds_it(goal: str, count: int) -> None:
    assert required_requests(parse_goal(goal)) == count
    q = max((term.q or 0 for term in parse_goal(goal).terms), default=0)
    assert q**count <= 0.025 < q ** (count - 1) or q == 0


def test_an_answer_without_text_has_missed_the_limit_of_its_first_token() -> None:
    goal, empty = parse_goal("ttft_p50<9"), row(first=None)
    assert goal.missed_terms([empty]) == ["ttft_p50<9: not measured"]
    assert goal.missed_terms([row(), empty, empty]) == ["ttft_p50<9: not measured"]
    assert goal.missed_terms([row(), row(), empty]) == []
    assert not goal.met_by(empty)


def test_answers_whose_tokens_were_not_counted_miss_a_time_per_token() -> None:
    goal, uncounted = parse_goal("tpot_p50<9"), row(output_tokens=0)
    assert goal.missed_terms([uncounted]) == ["tpot_p50<9: not measured"]
    assert not goal.met_by(uncounted)
    assert goal.met_by(row(output_tokens=1))


def test_a_quantile_is_the_reports_though_the_longest_time_was_not_measured() -> None:
    rows = [row(sent=0.0, first=first) for first in (0.1, 0.2, 0.4)]
    assert parse_goal("ttft_p50<1").terms[0].value([*rows, row(first=None)]) == pytest.approx(0.3)


def test_a_request_is_good_if_it_is_within_every_limit_of_a_time() -> None:
    goal = parse_goal("ttft_p95<0.6,tpot_p50<0.5,errors<0.01")
    assert goal.met_by(row(sent=1.5, first=2.0, last=3.0, output_tokens=5))
    assert not goal.met_by(row(sent=1.4, first=2.0, last=3.0, output_tokens=5))
    assert not goal.met_by(row(sent=1.5, first=2.0, last=4.0, output_tokens=5))
    assert not goal.met_by(failed())
