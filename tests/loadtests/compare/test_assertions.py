import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.evaluation.token_prices import TokenPrices
from loramux_loadtests.compare.assertions import VARIABLES, assertion_variables, check_condition, evaluate_condition
from loramux_loadtests.compare.costs import ComparisonPrices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.summary import summarize
from tests.helpers.comparisons import comparison, scored_answers

VALUES = {"quality_gain": 0.4, "cost_ratio": 0.5, "break_even_requests": float("inf")}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("quality_gain > 0.05 and cost_ratio < 1", True),
        ("quality_gain > 0.05 and cost_ratio < 0.1", False),
        ("quality_gain < 0 or not cost_ratio >= 1", True),
        ("0.3 < quality_gain <= 0.4", True),
        ("quality_gain == 0.4 and cost_ratio != 1", True),
        ("-quality_gain + 2 * cost_ratio - 0.1 > 1 / 3", True),
        (" break_even_requests < 1000000\n", False),
    ],
)
def test_a_condition_is_what_it_reads_as(condition: str, expected: bool) -> None:
    assert evaluate_condition(condition, VALUES) is expected


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("quality > 1", "unknown variable 'quality'; variables are break_even_requests, cost_ratio, quality_gain"),
        ("quality_gain >", "invalid syntax"),
        ("", "invalid syntax"),
        ("__import__('os').system('true')", "only numbers"),
        ("quality_gain.real > 0", "only numbers"),
        ("[1][0] > 0", "only numbers"),
        ("'a' < 'b'", "only numbers"),
        ("quality_gain ** 9 ** 9 ** 9 > 1", "only numbers"),
        ("(lambda: 1)() > 0", "only numbers"),
        ("quality_gain in (1, 2)", "only numbers"),
        ("1 / 0 > 1", "division by zero"),
        ("(" * 500, "invalid syntax"),
        ("quality_gain > 0 " + "and 1 " * 5000, "at most 1000 characters"),
    ],
)
def test_anything_else_is_refused(condition: str, reason: str) -> None:
    with pytest.raises(ComparisonError, match=reason):
        evaluate_condition(condition, VALUES)


@given(condition=st.text(max_size=40) | st.text(alphabet="()<>=.01 andornotqualityg_*-+[]", max_size=60))
def test_no_text_breaks_it(condition: str) -> None:
    try:
        assert evaluate_condition(condition, VALUES) in (True, False)
    except ComparisonError as error:
        assert "--assert" in str(error)


@pytest.mark.parametrize("condition", ["quality_gane > 0", "quality_gain >", "[1]"])
def test_what_can_never_hold_is_refused_before_the_first_request(condition: str) -> None:
    with pytest.raises(ComparisonError, match="--assert"):
        check_condition(condition)
    check_condition("1 / (cost_ratio - 1) > 0")  # it depends


def test_variables_are_of_the_challenger_relative_to_the_reference() -> None:
    prices = ComparisonPrices(default=TokenPrices(input=1), training=1)
    variables = assertion_variables(
        summarize(comparison(count=40, prices=prices), scored_answers([1, 1, 1, 0] * 10, [0] * 40), {})
    )
    assert (variables["quality"], variables["reference_quality"], variables["quality_gain"]) == (0.75, 0, 0.75)
    assert 0 < variables["quality_gain_low"] < 0.75 < variables["quality_gain_high"] <= 1
    assert (
        variables["prompt_token_ratio"]
        == pytest.approx(variables["cost_ratio"])
        == pytest.approx(variables["cost_ratio_high"])
        == pytest.approx(10 / 500)
    )
    assert variables["break_even_requests"] == variables["break_even_requests_high"] == pytest.approx(1 / 490e-6)
    assert (variables["latency_ratio"], variables["unscored"], variables["items"]) == (1, 0, 40)
    assert (variables["is_better"], variables["is_as_good"], variables["is_worse"]) == (1, 0, 0)
    assert (variables["is_decided"], variables["items_needed"], variables["neither_works"]) == (1, 40, 0)
    assert variables.keys() == set(VARIABLES)


@pytest.mark.parametrize(
    ("tuned", "prompted", "condition"),
    [
        ([1.0] * 12, [0.0] * 12, "is_better and is_not_worse and not is_as_good and is_decided and warnings == 0"),
        ([0.0] * 12, [1.0] * 12, "is_worse and not is_not_worse and is_decided"),
        ([0.0] * 12, [0.0] * 12, "neither_works and is_decided and warnings == 1"),
        ([1.0] * 32 + [0.0] * 8, [0.0] * 8 + [1.0] * 32, "not is_decided and not is_better and items_needed > 40"),
    ],
)
def test_each_verdict_is_a_variable(tuned: list[float], prompted: list[float], condition: str) -> None:
    found = summarize(comparison(count=len(tuned)), scored_answers(tuned, prompted), {})
    assert evaluate_condition(condition, assertion_variables(found))
