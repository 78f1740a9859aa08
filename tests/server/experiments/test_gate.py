import pytest

from loramux_server.experiments.gate import decide
from loramux_server.experiments.models import Limits, Observation, Outcome, Promotion, State
from loramux_server.experiments.report import build_report
from tests.helpers.experiment_records import BASELINE_CONFIG, CANARY_CONFIG, NEW, observation, observations


def decision(rows: list[Observation], when: str = "better", **limits: float) -> tuple[State, str] | None:
    promotion = Promotion.model_validate({"when": when, "limits": limits})
    config = CANARY_CONFIG.model_copy(update={"promotion": promotion})
    decided = decide(config, build_report(config, rows), rows)
    return None if decided is None else (decided.state, decided.reason)


def both(count: int, candidate: float | None, current: float | None) -> list[Observation]:
    return [*observations("candidate", count, candidate), *observations("current", count, current)]


def test_a_better_candidate_is_promoted_and_a_worse_one_rolled_back() -> None:
    better = decision(both(50, 1.0, 0.0))
    assert better is not None
    assert better[0] is State.PROMOTED
    assert better[1].startswith("candidate is better than current: +1.00 [+")
    worse = decision(both(50, 0.0, 1.0))
    assert worse is not None
    assert worse[0] is State.ROLLED_BACK


def test_an_equal_candidate_is_promoted_only_if_that_is_enough() -> None:
    """With `better`, a candidate that is shown to be as good can't become better: its test ends."""
    equal = both(400, 1.0, 1.0)
    accepted, refused = decision(equal, "not-worse"), decision(equal, "better")
    assert accepted is not None
    assert refused is not None
    assert (accepted[0], refused[0]) == (State.PROMOTED, State.ROLLED_BACK)


def test_an_undecided_candidate_is_tested_further() -> None:
    assert decision(both(5, 1.0, 1.0)) is None
    assert decision([]) is None


def test_an_experiment_without_a_promotion_is_never_decided_by_itself() -> None:
    rows = [*observations("adapter", 50, 1.0), *observations("baseline", 50, 0.0)]
    assert decide(BASELINE_CONFIG, build_report(BASELINE_CONFIG, rows), rows) is None


def test_a_single_nan_rolls_back() -> None:
    rows = [*both(3, None, None), observation("candidate", "x", 0.0, outcome=Outcome.FAILED, corrupted=True)]
    assert decision(rows) == (State.ROLLED_BACK, f"{NEW} computed NaN or infinite values.")


def test_errors_roll_back_beyond_their_limit_only() -> None:
    failed = observations("candidate", 3, 0.0, outcome=Outcome.FAILED)
    answered = [observation("candidate", f"fine-{n}", 1.0) for n in range(200)]
    beyond = decision([*failed, *observations("current", 3, 1.0)], errors=0.02)
    assert beyond is not None
    assert "failed on 100.0% of 3 requests" in beyond[1]
    assert decision([*failed, *answered, *observations("current", 200, 1.0)], errors=0.02) is None


def test_failures_of_the_current_version_do_not_roll_the_candidate_back() -> None:
    rows = [*observations("current", 5, 0.0, outcome=Outcome.FAILED), *observations("candidate", 5, None)]
    assert decision(rows, errors=0.02) is None


def test_latency_rolls_back_beyond_its_limit() -> None:
    slow = observations("candidate", 30, None, duration=2.0)
    slow[0] = observation("candidate", "first", None, duration=2.1)  # equal times have no interval
    rows = [*slow, *observations("current", 30, None, duration=1.0)]
    beyond = decision(rows, latency=1.5)
    assert beyond is not None
    assert beyond[1].startswith("The candidate takes 2.00 times as long")
    assert decision(rows, latency=2.5) is None


def test_quality_rolls_back_when_it_is_lower_by_more_than_the_limit() -> None:
    beyond = decision(both(60, 0.0, 1.0), quality=0.3)
    assert beyond is not None
    assert beyond[1] == "The candidate's mean score is lower by 1.00, beyond the limit of 0.3."


@pytest.mark.parametrize("limits", [{"errors": 1.0}, {"errors": -0.1}, {"latency": 0}, {"quality": 2}, {"speed": 1}])
def test_limits_that_mean_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Limits"):
        Limits.model_validate(limits)
