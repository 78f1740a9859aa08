import numpy as np
import pytest

from loramux_server.experiments.models import Observation, Outcome
from loramux_server.experiments.report import build_report
from tests.helpers.experiment_records import BASELINE_CONFIG, observation, observations


def graded(variant: str, count: int, share: float, seed: int) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [observation(variant, f"{variant}-{n}", float(rng.random() < share)) for n in range(count)]


def test_a_better_adapter_an_equal_one_and_a_worse_one_are_told_apart() -> None:
    for ours, theirs, verdict in ((0.9, 0.5, "better"), (0.5, 0.9, "worse"), (0.5, 0.5, "undecided")):
        rows = [*graded("adapter", 300, ours, 1), *graded("baseline", 300, theirs, 2)]
        assert build_report(BASELINE_CONFIG, rows).verdict == verdict


def test_two_variants_that_always_score_the_same_are_as_good_with_enough_units() -> None:
    rows = [*observations("adapter", 400, 1.0), *observations("baseline", 400, 1.0)]
    assert build_report(BASELINE_CONFIG, rows).verdict == "as good"


def test_few_units_decide_nothing() -> None:
    rows = [*observations("adapter", 3, 1.0), *observations("baseline", 3, 0.0)]
    report = build_report(BASELINE_CONFIG, rows)
    assert report.verdict == "undecided"
    assert report.units_needed is not None


def test_a_variant_without_any_request_is_no_error() -> None:
    report = build_report(BASELINE_CONFIG, [])
    assert (report.verdict, report.challenger.score, report.ratios) == ("undecided", None, [])


def test_a_user_with_many_requests_counts_once_by_the_first_score() -> None:
    rows = [observation("adapter", "eager", score) for score in (None, 0.0, 1.0, 1.0)]
    report = build_report(BASELINE_CONFIG, rows)
    assert (report.challenger.units, report.challenger.scored_units, report.challenger.requests) == (1, 1, 4)
    assert report.challenger.score is not None
    assert report.challenger.score.estimate == 0


def test_both_variants_at_zero_are_called_out() -> None:
    """T3: nobody works, or the scorer is wrong."""
    rows = [*observations("adapter", 10, 0.0), *observations("baseline", 10, 0.0)]
    report = build_report(BASELINE_CONFIG, rows)
    assert any("neither works, or the scorer is wrong" in warning for warning in report.warnings)
    assert report.difference.high - report.difference.low > 0.5


def test_different_response_rates_are_called_out() -> None:
    rows = [
        *observations("adapter", 150, 1.0),
        *(observation("baseline", f"b-{n}", 1.0 if n % 3 == 0 else None) for n in range(150)),
    ]
    [warning] = build_report(BASELINE_CONFIG, rows).warnings
    assert warning.startswith("100% of the users of adapter gave feedback, but 33% of baseline")


def test_a_share_that_is_not_the_planned_one_is_called_out() -> None:
    rows = [*observations("adapter", 200, 1.0), *observations("baseline", 20, 1.0)]
    assert any("instead of 50%" in warning for warning in build_report(BASELINE_CONFIG, rows).warnings)


def test_requests_without_users_are_called_out() -> None:
    rows = [observation("adapter", "r" + "0" * 24, 1.0), observation("baseline", "ab" * 12, 1.0)]
    assert any("name no user" in warning for warning in build_report(BASELINE_CONFIG, rows).warnings)


def test_latency_tokens_and_cost_are_compared_with_intervals_per_user() -> None:
    rng = np.random.default_rng(0)
    rows = [
        observation(variant, f"{variant}-{n}", 1.0, duration=rng.lognormal(0, 0.3) * factor, price_list_cost=None)
        for variant, factor in (("adapter", 1.0), ("baseline", 2.0))
        for n in range(100)
    ]
    ratios = {ratio.measure: ratio for ratio in build_report(BASELINE_CONFIG, rows).ratios}
    assert set(ratios) == {"duration", "input_tokens", "output_tokens"}  # T5: what has no price has no cost
    duration = ratios["duration"].ratio
    assert duration is not None
    assert duration.low < 0.5 < duration.high < 0.8


def test_failed_requests_count_for_the_score_but_not_for_latency() -> None:
    rows = [
        observation("baseline", "b", 0.0, outcome=Outcome.FAILED, duration=99.0),
        observation("baseline", "c", 1.0),
        observation("adapter", "a", 1.0),
    ]
    report = build_report(BASELINE_CONFIG, rows)
    assert report.reference.score is not None
    assert report.reference.score.estimate == 0.5
    [duration] = [ratio for ratio in report.ratios if ratio.measure == "duration"]
    assert (duration.reference, duration.ratio) == (1.0, None)


def test_a_shadow_experiment_compares_pairs_and_no_latency() -> None:
    config = BASELINE_CONFIG.model_copy(update={"shadow": True, "share": 1.0})
    rows = [
        observation(variant, f"u-{n}", score)
        for n in range(60)
        for variant, score in (("adapter", 1.0), ("baseline", 0.0))
    ]
    rows.append(observation("adapter", "unpaired", 0.0))
    report = build_report(config, rows)
    assert (report.pairs, report.verdict, report.challenger.units) == (60, "better", 60)
    assert "duration" not in {ratio.measure for ratio in report.ratios}


@pytest.mark.parametrize("count", [5000])
def test_a_report_of_many_requests_is_quick(count: int) -> None:
    rows = [*graded("adapter", count, 0.5, 1), *graded("baseline", count, 0.5, 2)]
    assert build_report(BASELINE_CONFIG, rows).challenger.units == count
