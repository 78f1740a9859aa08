from collections.abc import Sequence

import pytest

from loramux_loadtests.compare.costs import Prices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.rows import Turn
from loramux_loadtests.compare.summary import Summary, summarize
from loramux_loadtests.prices import TokenPrices
from tests.helpers.comparisons import PROMPTED, TUNED, comparison, row, rows

PRICES = Prices(default=TokenPrices(input=1, output=2), gpu_hour=3.6, training=0.5, month=0.5)
TURNS = {("warm", TUNED): [Turn(0.4, 4)] * 5, ("warm", PROMPTED): [Turn(0.8, 2)] * 5}  # others were cut off


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
        ([1, 0] * 10, [0, 1] * 10, "no difference shown", "of “tuned” no difference in quality is shown"),
        ([1] * 20, [1] * 20, "no difference shown", "no difference in quality is shown, +0.00 [+0.00, +0.00]"),
        ([1] * 11 + [0] * 9, [1] * 10 + [0] * 10, "no difference shown", "+0.05 [+0.00, "),  # by one item
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


def test_a_few_items_are_no_verdict_however_clear() -> None:
    found = summary([1] * 9, [0] * 9)
    assert found.verdict == "too few items"
    assert found.sentence.startswith("9 items are too few for a verdict: “tuned” over “prompted” +1.00")


def test_an_arm_that_is_no_better_is_said_to_be_cheaper_if_that_is_shown() -> None:
    free = PRICES.model_copy(update={"training": 0.0, "month": 0.0})
    assert "; a request is cheaper (price list)" in summary([1] * 20, [1] * 20, free).sentence


def test_costs_are_by_the_price_list_and_by_the_time_that_an_arm_kept_the_machine_busy() -> None:
    last = summary([1] * 20, [0] * 20, PRICES).passes[-1]
    ours, theirs = last.arms[TUNED].costs, last.arms[PROMPTED].costs
    assert (ours["price_list"].estimate, theirs["price_list"].estimate) == pytest.approx((14e-6, 504e-6))
    assert 20 * ours["gpu_hour"].estimate == pytest.approx(3.6 * 2 / 3600)
    assert 20 * theirs["gpu_hour"].estimate == pytest.approx(3.6 * 8 / 3600)
    assert last.ratios["price_list_cost"].estimate == pytest.approx(14 / 504)
    assert last.ratios["gpu_hour_cost"].estimate == pytest.approx(2 / 8)


def test_how_sure_a_cost_by_time_is_tells_from_how_the_turns_vary() -> None:
    # Every answer has the same tokens: what varies is the machine.
    noisy = {**TURNS, ("warm", TUNED): [Turn(seconds, 4) for seconds in (0.1, 0.9, 0.2, 0.7, 0.1)]}
    last = summarize(comparison(count=20, prices=PRICES), rows([1] * 20, [0] * 20), noisy).passes[-1]
    low, estimate, high = last.arms[TUNED].costs["gpu_hour"]
    assert 20 * estimate == pytest.approx(3.6 * 2 / 3600)
    assert high - low > 0.5 * estimate
    assert last.ratios["gpu_hour_cost"].high - last.ratios["gpu_hour_cost"].low > 0.1


def test_nothing_pays_by_a_time_of_a_few_turns() -> None:
    few = {key: turns[:4] for key, turns in TURNS.items()}
    last = summarize(comparison(count=20, prices=PRICES), rows([1] * 20, [0] * 20), few).passes[-1]
    assert (set(last.paid), set(last.arms[TUNED].costs)) == ({"price_list"}, {"price_list", "gpu_hour"})


def test_it_pays_when_what_is_saved_has_earned_its_making_and_a_months_keeping() -> None:
    found = summary([1] * 20, [0] * 20, PRICES)
    paid = found.passes[-1].paid["price_list"]
    assert (paid.to_earn, *paid.saving) == pytest.approx((1.0, *[490e-6] * 3))
    assert tuple(paid.requests) == pytest.approx((1 / 490e-6,) * 3)
    told = "; it pays for itself after 2,041 [2,041, 2,041] requests in its first month (price list)."
    assert told in found.sentence


def test_a_saving_that_is_not_shown_pays_for_nothing() -> None:
    # By its tokens the prompted arm costs 504 each time; the tuned one half of that, or half as much again.
    wild = [
        one if one.arm == PROMPTED else one.model_copy(update={"input_tokens": 748 if one.item % 2 else 248})
        for one in rows([1] * 20, [0] * 20)
    ]
    found = summarize(comparison(count=20, prices=PRICES), wild, {})
    fewest, estimate, most = found.passes[-1].paid["price_list"].requests
    assert (fewest or 0) > 0
    assert (estimate or 0) > (fewest or 0)
    assert most is None
    assert "that it ever pays for itself is not shown" in found.sentence
    assert Summary.model_validate_json(found.model_dump_json()) == found


def test_what_costs_more_never_pays() -> None:
    dear = PRICES.model_copy(update={"gpu_hour": 0.0, "arms": {TUNED: TokenPrices(input=1000)}})
    found = summary([1] * 20, [0] * 20, dear)
    assert found.passes[-1].paid["price_list"].requests == (None, None, None)
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
    found = summarize(comparison(), [*cold, *rows([1] * 12, [0] * 12)], {})
    assert [one.pass_ for one in found.passes] == ["cold", "warm"]
    assert found.passes[0].arms[TUNED].measured["ttft"] == (1, 1, 1)
    assert found.verdict == "better"


def test_what_was_not_measured_is_not_made_up() -> None:
    single = [one.model_copy(update={"tpot": None}) for one in rows([1] * 4, [0] * 4)]
    last = summarize(comparison(), single, {}).passes[-1]
    assert last.arms[TUNED].measured["tpot"] is None
    assert "tpot" not in last.ratios
    assert "cached_tokens" not in last.ratios  # nothing to divide by
