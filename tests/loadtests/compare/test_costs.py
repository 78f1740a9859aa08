from pathlib import Path

import numpy as np
import pytest

from loramux_loadtests.compare.costs import (
    ComparisonPrices,
    CostSamples,
    cost_per_answer,
    cost_ratio,
    cost_samples,
    saving_per_answer,
)
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.reading import CompareOptions, read_comparison
from loramux_loadtests.prices import parse_price_list
from tests.helpers.comparisons import PROMPTED, TUNED, measured_answer, write_example

LIST = "base: {input: 1, output: 2}\nadapter: {multiplier: 3}\ngpu_hour: 3.6\n"


def usd(text: str, arm: str, model: str) -> float:
    prices = parse_price_list(text, ComparisonPrices)
    samples = cost_samples([measured_answer(arm, 0, input_tokens=10, output_tokens=2)], (), prices, model, "tiny")
    return samples["price_list"].usd_per_answer


def test_an_arm_costs_what_its_model_costs_by_the_price_list_of_a_server() -> None:
    assert usd(LIST, PROMPTED, "tiny") == pytest.approx(14e-6)
    assert usd(LIST, TUNED, "lights") == pytest.approx(3 * 14e-6)
    assert usd(LIST + "adapters: {lights: {tokens: {input: 5}}}", TUNED, "lights@123") == pytest.approx(50e-6)


def test_the_prices_of_an_arm_take_precedence_over_the_price_list() -> None:
    assert usd(LIST + "arms: {tuned: {input: 7}}", TUNED, "lights") == pytest.approx(70e-6)
    assert usd(LIST + "arms: {tuned: {input: 7}}", PROMPTED, "tiny") == pytest.approx(14e-6)
    assert usd(LIST + "default: {input: 2}", TUNED, "lights") == pytest.approx(20e-6)


def test_tokens_without_a_price_have_an_unknown_cost_and_not_none() -> None:
    assert usd("default: {input: 0}", TUNED, "lights") == 0  # said to be free
    for text in ("gpu_hour: 3.6", "arms: {prompted: {input: 7}}", "adapters: {other: {tokens: {input: 5}}}"):
        with pytest.raises(KeyError, match="price_list"):
            usd(text, TUNED, "lights")


def batch_samples(rng: np.random.Generator, mean: float, count: int) -> CostSamples:
    return CostSamples(rng.gamma(8.0, mean / 8.0, count), np.full(count, 8.0))


def test_intervals_of_costs_contain_the_truth_as_often_as_they_say() -> None:
    rng, hits = np.random.default_rng(0), {"cost": 0, "ratio": 0, "saving": 0}
    for _ in range(1000):
        ours, theirs = batch_samples(rng, 1.0, 12), batch_samples(rng, 2.0, 12)
        intervals = {
            "cost": (cost_per_answer(ours), 1 / 8),
            "ratio": (cost_ratio(ours, theirs), 0.5),
            "saving": (saving_per_answer(ours, theirs), 1 / 8),
        }
        for name, (interval, truth) in intervals.items():
            assert interval
            hits[name] += interval.low <= truth <= interval.high
    assert all(930 <= count <= 975 for count in hits.values()), hits


def test_fewer_than_ten_samples_and_a_cost_of_nothing_have_no_interval() -> None:
    rng = np.random.default_rng(0)
    few, free = batch_samples(rng, 1.0, 9), CostSamples(np.zeros(12), np.ones(12))
    assert (cost_per_answer(few), cost_ratio(few, few), saving_per_answer(few, few)) == (None, None, None)
    assert cost_ratio(batch_samples(rng, 1.0, 12), free) is None
    assert cost_ratio(free, batch_samples(rng, 1.0, 12)) is None


def options(folder: Path, prices: str, **more: str) -> CompareOptions:
    (folder / "prices.yaml").write_text(prices)
    arms = ["prompted=tiny", "tuned=lights"]
    return CompareOptions("http://127.0.0.1:1", arms=arms, prices=folder / "prices.yaml", **more)  # type: ignore[arg-type]


def test_prices_are_read_by_themselves_or_from_a_loramux_yaml(tmp_path: Path) -> None:
    data = write_example(tmp_path) / "test.jsonl"
    alone = read_comparison(data, options(tmp_path, "base: {input: 1}\ntraining: 2\nmonth: 3"))
    within = read_comparison(data, options(tmp_path, "model: tiny\nprices: {base: {input: 1}, training: 2, month: 3}"))
    assert alone.prices == within.prices
    assert alone.prices
    assert alone.prices.fixed_cost_usd == 5
    assert alone.base_model is None


def test_the_base_model_is_only_needed_if_adapters_have_other_prices(tmp_path: Path) -> None:
    data = write_example(tmp_path) / "test.jsonl"
    assert read_comparison(data, options(tmp_path, LIST, base="tiny")).base_model == "tiny"
    assert read_comparison(data, options(tmp_path, LIST + "default: {input: 2}")).base_model is None
    with pytest.raises(ComparisonError, match=r"127\.0\.0\.1:1"):
        read_comparison(data, options(tmp_path, LIST))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gpu_hour: much", "prices.yaml: gpu_hour: "),
        ("bsae: {input: 1}", "prices.yaml: bsae: Extra inputs"),
        ("{", "prices.yaml: invalid YAML"),
        ("[1]", "prices.yaml: Input should be a valid dictionary"),
    ],
)
def test_invalid_prices_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ComparisonError, match=reason):
        read_comparison(write_example(tmp_path) / "test.jsonl", options(tmp_path, text))
