import pytest

from loramux_adapters.evaluation.statistics import Interval
from loramux_server.experiments.verdict import Quality, judge, sentence, verdict_of


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.2, "better"),
        (-0.04, 0.04, "as good"),
        (0.01, 0.04, "as good"),
        (0.01, 0.05, "better"),
        (-0.04, 0.2, "not worse"),
        (-0.04, -0.01, "as good"),
        (-0.2, -0.01, "worse"),
        (-0.2, 0.2, "undecided"),
        (0.0, 0.2, "not worse"),
        (-0.05, 0.2, "undecided"),
        (-1.0, 1.0, "undecided"),
    ],
)
def test_a_verdict_holds_for_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert verdict_of(Interval(low, (low + high) / 2, high), margin=0.05) == verdict


def shrinking(estimate: float, half: float) -> Quality:
    return judge(100, lambda k: Interval(estimate - half / k**0.5, estimate, estimate + half / k**0.5), 0.05)


def test_an_undecided_experiment_says_how_many_units_would_decide_it() -> None:
    quality = shrinking(0.1, 0.2)  # decided when the half width is below 0.15, with 1.8 times as many
    assert quality.verdict == "undecided"
    assert quality.units_needed == pytest.approx(178, rel=0.12)
    said = sentence(quality, "adapter", "baseline", 0.05)
    assert said.startswith("Undecided: +0.10 [-0.10, +0.30] from 100 units; about ")


def test_no_number_of_units_is_promised_that_is_out_of_reach() -> None:
    quality = shrinking(0.01, 10.0)
    assert quality.units_needed is None
    assert "no number of units in reach" in sentence(quality, "adapter", "baseline", 0.05)


def test_without_scores_the_sentence_says_so() -> None:
    nothing = judge(0, lambda _k: Interval(-1, 0, 1), 0.05)
    assert sentence(nothing, "adapter", "baseline", 0.05) == "Undecided: no answer has a score yet."


def test_a_decided_experiment_needs_no_more_units() -> None:
    quality = shrinking(0.3, 0.2)
    assert (quality.verdict, quality.units_needed) == ("better", None)
    assert sentence(quality, "adapter", "baseline", 0.05) == "adapter is better than baseline: +0.30 [+0.10, +0.50]."
