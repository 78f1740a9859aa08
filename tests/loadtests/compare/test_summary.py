from collections.abc import Mapping, Sequence

import pytest

from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.token_prices import TokenPrices
from loramux_loadtests.compare.answer_log import Batch
from loramux_loadtests.compare.costs import ComparisonPrices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.summary import ComparisonSummary, summarize
from tests.helpers.comparisons import PROMPTED, TUNED, comparison, scored_answer, scored_answers

PRICES = ComparisonPrices(default=TokenPrices(input=1, output=2), gpu_hour=3.6, training=0.5, month=0.5)
BATCHES = {("warm", TUNED): [Batch(0.2, 2)] * 10, ("warm", PROMPTED): [Batch(0.4, 1)] * 10}  # others were cut off


def summary(
    tuned: Sequence[float], prompted: Sequence[float], prices: ComparisonPrices | None = None
) -> ComparisonSummary:
    return summarize(comparison(count=20, prices=prices), scored_answers(tuned, prompted), BATCHES)


def known(costs: Mapping[str, Interval | None]) -> dict[str, Interval]:
    return {mode: cost for mode, cost in costs.items() if cost}


def test_the_difference_is_taken_item_by_item() -> None:
    # Each arm alone varies widely, yet one is better by the same on every item: the interval must be narrow.
    last = summary([0.5, 1.0] * 10, [0.25, 0.75] * 10).passes[-1]
    assert last.difference.estimate == 0.25
    assert 0 < last.difference.low < last.difference.high < 0.5
    low, estimate, high = last.arms[TUNED].scores["accuracy"]
    assert (estimate, high - low > 0.2) == (0.75, True)


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict", "words"),
    [
        ([1] * 19 + [0], [0] * 20, "better", "“tuned” is better than “prompted” by 0.95"),
        ([0] * 20, [1] * 19 + [0], "worse", "Keep “prompted”: “tuned” is worse by 0.95"),
        ([1] * 200, [1] * 200, "as good", "“tuned” is as good as “prompted” within 0.05, +0.00 [-0.0"),
        (
            [1] * 32 + [0] * 8,
            [0] * 8 + [1] * 32,
            "not enough items",
            "no difference is shown",
        ),
        ([1] * 20, [1] * 20, "not enough items", "is shown, +0.00 [-0.14, +0.14]; about"),
        ([0] * 20, [0] * 20, "neither works", "Neither “tuned” nor “prompted” works"),
    ],
)
def test_the_verdict_is_what_the_interval_allows(
    mine: list[float], theirs: list[float], verdict: str, words: str
) -> None:
    found = summarize(comparison(count=len(mine)), scored_answers(mine, theirs), {})
    assert found.verdict == verdict
    assert words in found.sentence
    assert ("at 1/50 of the prompt tokens" in found.sentence) == (verdict in {"better", "as good", "worse"})
    assert "pays" not in found.sentence


def test_a_few_items_give_no_verdict_and_no_intervals_of_tokens_time_and_cost() -> None:
    found = summary([1] * 9, [0] * 9, PRICES)
    assert found.verdict == "not enough items"
    assert found.sentence.startswith("9 items are too few for a verdict: “tuned” relative to “prompted” +1.00")
    last = found.passes[-1]
    assert set(last.arms[TUNED].measured.values()) == {None}
    assert last.arms[TUNED].costs["price_list"] is None
    assert (set(last.ratios), set(last.paid)) == ({"gpu_hour_cost"}, {"gpu_hour"})  # by ten batches


def test_an_arm_that_is_not_better_is_called_cheaper_if_that_is_shown() -> None:
    free = PRICES.model_copy(update={"training": 0.0, "month": 0.0})
    alike = summarize(comparison(count=200, prices=free), scored_answers([1] * 200, [1] * 200), {})
    assert (alike.verdict, "; a request is cheaper (price list)" in alike.sentence) == ("as good", True)


def test_costs_are_by_the_price_list_and_by_the_time_of_an_arms_batches() -> None:
    last = summary([1] * 20, [0] * 20, PRICES).passes[-1]
    ours, theirs = known(last.arms[TUNED].costs), known(last.arms[PROMPTED].costs)
    assert (ours["price_list"].estimate, theirs["price_list"].estimate) == pytest.approx((14e-6, 504e-6))
    assert 20 * ours["gpu_hour"].estimate == pytest.approx(3.6 * 2 / 3600)
    assert 20 * theirs["gpu_hour"].estimate == pytest.approx(3.6 * 8 / 3600)
    assert last.ratios["price_list_cost"].estimate == pytest.approx(14 / 504)
    assert last.ratios["gpu_hour_cost"].estimate == pytest.approx(2 / 8)


def test_the_interval_of_a_cost_by_time_follows_the_variance_of_its_batches() -> None:
    # Every answer has the same tokens: what varies is the machine.
    noisy = {**BATCHES, ("warm", TUNED): [Batch(seconds, 2) for seconds in (0.05, 0.45, 0.1, 0.35, 0.05) * 2]}
    last = summarize(comparison(count=20, prices=PRICES), scored_answers([1] * 20, [0] * 20), noisy).passes[-1]
    low, estimate, high = known(last.arms[TUNED].costs)["gpu_hour"]
    assert 20 * estimate == pytest.approx(3.6 * 2 / 3600)
    assert high - low > 0.5 * estimate
    assert last.ratios["gpu_hour_cost"].high - last.ratios["gpu_hour_cost"].low > 0.1


def test_a_few_batches_are_too_few_for_a_break_even() -> None:
    few = {key: batches[:9] for key, batches in BATCHES.items()}
    last = summarize(comparison(count=20, prices=PRICES), scored_answers([1] * 20, [0] * 20), few).passes[-1]
    assert (set(last.paid), set(last.arms[TUNED].costs)) == ({"price_list"}, {"price_list", "gpu_hour"})


def test_it_pays_when_the_saving_covers_training_and_a_month() -> None:
    found = summary([1] * 20, [0] * 20, PRICES)
    paid = found.passes[-1].paid["price_list"]
    assert (paid.fixed_cost_usd, *paid.saving) == pytest.approx((1.0, *[490e-6] * 3))
    assert tuple(paid.requests) == pytest.approx((1 / 490e-6,) * 3)
    assert found.sentence.endswith("; it pays for itself after 2,041 requests in its first month (price list).")


def test_a_saving_that_is_not_shown_gives_no_break_even() -> None:
    # By its tokens the prompted arm costs 504 each time; the tuned one half of that, or half as much again.
    wild = [
        one if one.arm == PROMPTED else one.model_copy(update={"input_tokens": 748 if one.item % 2 else 248})
        for one in scored_answers([1] * 20, [0] * 20)
    ]
    found = summarize(comparison(count=20, prices=PRICES), wild, {})
    low, estimate, high = found.passes[-1].paid["price_list"].requests
    assert (low or 0) > 0
    assert (estimate or 0) > (low or 0)
    assert high is None
    assert "that it ever pays for itself is not shown" in found.sentence
    assert ComparisonSummary.model_validate_json(found.model_dump_json()) == found


def test_an_arm_that_costs_more_never_pays() -> None:
    expensive = PRICES.model_copy(update={"gpu_hour": 0.0, "arms": {TUNED: TokenPrices(input=1000)}})
    found = summary([1] * 20, [0] * 20, expensive)
    assert found.passes[-1].paid["price_list"].requests == (None, None, None)
    assert "it never pays for itself" in found.sentence
    assert ComparisonSummary.model_validate_json(found.model_dump_json()) == found


def test_arms_are_compared_on_the_items_that_all_of_them_answered() -> None:
    mixed = [*scored_answers([1, 0, 1], [1, 0, 0]), scored_answer(TUNED, 3)][::-1]
    assert summarize(comparison(), mixed, {}).passes[-1].items == 3


def test_unscored_items_are_left_out_and_counted() -> None:
    broken = scored_answers([1, 1], [0, 0])
    broken[0] = broken[0].model_copy(update={"scores": {}, "error": "judge: 500"})
    found = summarize(comparison(), broken, {})
    assert (found.passes[-1].items, found.unscored) == (1, 1)
    with pytest.raises(ComparisonError, match="nothing can be compared: judge: 500"):
        summarize(comparison(), broken[:1] + broken[2:3], {})


def test_passes_are_separate_and_the_last_one_decides() -> None:
    cold = [one.model_copy(update={"pass_": "cold", "ttft": 1.0}) for one in scored_answers([0] * 12, [1] * 12)]
    found = summarize(comparison(), [*cold, *scored_answers([1] * 12, [0] * 12)], {})
    assert [one.pass_ for one in found.passes] == ["cold", "warm"]
    assert found.passes[0].arms[TUNED].measured["ttft"] == (1, 1, 1)
    assert found.verdict == "better"


def test_what_was_not_measured_is_none() -> None:
    single = [one.model_copy(update={"tpot": None}) for one in scored_answers([1] * 4, [0] * 4)]
    last = summarize(comparison(), single, {}).passes[-1]
    assert last.arms[TUNED].measured["tpot"] is None
    assert "tpot" not in last.ratios
    assert "cached_tokens" not in last.ratios  # nothing to divide by
