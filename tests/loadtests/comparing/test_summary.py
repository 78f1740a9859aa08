import math
from collections.abc import Sequence

import pytest

from loramux_loadtests.comparing.costs import Prices, costs
from loramux_loadtests.comparing.errors import ComparisonError
from loramux_loadtests.comparing.rows import Turns
from loramux_loadtests.comparing.summary import Summary, ratio_of_means, summarize
from loramux_loadtests.prices import TokenPrices

from .building import PROMPTED, TUNED, comparison, row, rows

PRICES = Prices(default=TokenPrices(input=1, output=2), gpu_hour=3.6, training=0.5, month=0.5)
TURNS = {("warm", TUNED): Turns(2.0, 20), ("warm", PROMPTED): Turns(4.0, 10)}  # of which one was cut off


def summary(tuned: Sequence[float], prompted: Sequence[float], prices: Prices | None = None) -> Summary:
    return summarize(comparison(count=20, prices=prices), rows(tuned, prompted), TURNS)


def test_the_difference_is_taken_item_by_item() -> None:
    # Each arm alone varies widely, yet one is better by the same on every item: the interval must be a point.
    last = summary([0.5, 1.0, 0.5, 1.0], [0.0, 0.5, 0.0, 0.5]).passes[-1]
    assert last.difference == (0.5, 0.5, 0.5)
    low, estimate, high = last.arms[TUNED].scores["accuracy"]
    assert (estimate, high - low > 0.2) == (0.75, True)


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict", "words"),
    [
        ([1] * 19 + [0], [0] * 20, "better", "“tuned” is better than “prompted” by 0.95"),
        ([0] * 20, [1] * 19 + [0], "worse", "Keep “prompted”: “tuned” is worse by 0.95"),
        ([1, 0] * 10, [0, 1] * 10, "as good", "no gain outside the interval"),
        ([1] * 20, [1] * 20, "as good", "no gain outside the interval, +0.00 [+0.00, +0.00]"),
        ([1] * 11 + [0] * 9, [1] * 10 + [0] * 10, "as good", "no gain outside"),  # more on average, but by one item
    ],
)
def test_the_verdict_is_what_the_interval_allows(
    mine: list[float], theirs: list[float], verdict: str, words: str
) -> None:
    found = summary(mine, theirs)
    assert found.verdict == verdict
    assert words in found.sentence
    assert "at 1/50 of the prompt tokens" in found.sentence
    assert "pays" not in found.sentence


def test_an_arms_time_is_split_among_its_requests_by_their_work() -> None:
    longer = [row(TUNED, 0, output_tokens=22), row(TUNED, 1, output_tokens=2)]  # 10 + 4 * 22 against 10 + 4 * 2
    long, short = costs(longer, PRICES, Turns(2.0, 2))["gpu_hour"]
    assert (long + short, long / short) == pytest.approx((3.6 * 2 / 3600, 98 / 18))


def test_a_cheaper_arm_that_is_as_good_is_called_so() -> None:
    assert "as good and cheaper a request" in summary([1] * 20, [1] * 20, PRICES).sentence


def test_costs_are_by_the_price_list_and_by_the_time_that_an_arm_kept_the_machine_busy() -> None:
    last = summary([1] * 20, [0] * 20, PRICES).passes[-1]
    ours, theirs = last.arms[TUNED].costs, last.arms[PROMPTED].costs
    assert (ours["price_list"].estimate, theirs["price_list"].estimate) == pytest.approx((14e-6, 504e-6))
    assert 20 * ours["gpu_hour"].estimate == pytest.approx(3.6 * 2 / 3600)
    assert 20 * theirs["gpu_hour"].estimate == pytest.approx(3.6 * 8 / 3600)
    assert last.ratios["price_list_cost"].estimate == pytest.approx(14 / 504)


def test_it_pays_when_what_is_saved_has_earned_its_making_and_a_months_keeping() -> None:
    found = summary([1] * 20, [0] * 20, PRICES)
    paid = found.passes[-1].paid["price_list"]
    assert (paid.to_earn, paid.saving, paid.requests) == pytest.approx((1.0, 490e-6, 1 / 490e-6))
    assert "; it pays for itself after 2,041 requests (price list)." in found.sentence


def test_what_costs_more_never_pays() -> None:
    dear = PRICES.model_copy(update={"gpu_hour": 0.0, "arms": {TUNED: TokenPrices(input=1000)}})
    found = summary([1] * 20, [0] * 20, dear)
    assert found.passes[-1].paid["price_list"].requests is None
    assert "it never pays for itself" in found.sentence
    assert Summary.model_validate_json(found.model_dump_json()) == found


def test_arms_are_compared_on_the_items_that_all_of_them_answered() -> None:
    mixed = [*rows([1, 0, 1], [1, 0, 0]), row(TUNED, 3)][::-1]
    assert summarize(comparison(), mixed, {}).passes[-1].items == 3


def test_items_that_could_not_be_scored_are_left_out_and_counted() -> None:
    broken = rows([1, 1], [0, 0])
    broken[0] = broken[0].model_copy(update={"scores": {}, "error": "judge: 500"})
    found = summarize(comparison(), broken, {})
    assert (found.passes[-1].items, found.unscored) == (1, 1)
    with pytest.raises(ComparisonError, match="nothing can be compared: judge: 500"):
        summarize(comparison(), broken[:1] + broken[2:3], {})


def test_cold_and_warm_stand_apart_and_the_last_decides() -> None:
    cold = [one.model_copy(update={"pass_": "cold", "ttft": 1.0}) for one in rows([0] * 4, [1] * 4)]
    found = summarize(comparison(), [*cold, *rows([1] * 4, [0] * 4)], {})
    assert [one.pass_ for one in found.passes] == ["cold", "warm"]
    assert found.passes[0].arms[TUNED].measured["ttft"] == (1, 1, 1)
    assert found.verdict == "better"


def test_what_was_not_measured_is_not_made_up() -> None:
    single = [one.model_copy(update={"tpot": None}) for one in rows([1] * 4, [0] * 4)]
    last = summarize(comparison(), single, {}).passes[-1]
    assert last.arms[TUNED].measured["tpot"] is None
    assert "tpot" not in last.ratios
    assert "cached_tokens" not in last.ratios  # nothing to divide by


def test_a_ratio_of_means_has_an_interval_of_pairs() -> None:
    low, ratio, high = ratio_of_means([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) or (math.nan,) * 3
    assert (low, ratio, high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio_of_means([1.0], [0.0]) is None
