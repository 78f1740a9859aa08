import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from loramux_adapters.evaluation.scorers import Scorer, ScoringError
from loramux_adapters.evaluation.scorers.function import FunctionScorer
from loramux_adapters.evaluation.scorers.structured import JsonScorer
from loramux_adapters.evaluation.scorers.style import Rule, StyleScorer
from loramux_adapters.evaluation.scorers.texts import ChrfScorer, LabelScorer

LABELS = LabelScorer(type="label", labels=frozenset({"billing", "return_item"}))
SCHEMA = {
    "type": "object",
    "required": ["name", "count"],
    "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
}
JSON = JsonScorer(type="json", schema=SCHEMA)
EXPECTED = '{"name": "Ada", "count": 2}'


@pytest.mark.parametrize(
    ("answer", "accuracy", "exact"),
    [
        ("billing", 1, 1),
        (" billing\n", 1, 1),
        ("Billing", 1, 0),
        ('The label is "billing".', 1, 0),
        ("return_item", 0, 0),
        ("billing or return_item", 0, 0),
        ("rebilling", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_label_is_right_when_no_other_is_named(answer: str, accuracy: float, exact: float) -> None:
    assert LABELS.score(answer, "billing") == {"accuracy": accuracy, "exact": exact}


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("Card Payment", "card payment"),
        ("it is about a card", "card"),
        ("card payment, or card?", None),
        ("card, card", "card"),
        ("C++!", "C++"),
        ("STRASSE", "Strasse"),
        ("postcard", None),
        ("card-payment", None),
    ],
)
def test_labels_may_have_spaces_and_capitals_and_contain_each_other(answer: str, named: str | None) -> None:
    scorer = LabelScorer(type="label").fit(["card", "card payment", "C++", "Strasse", "card "])
    assert scorer.find_label(answer) == named


def test_an_expected_answer_that_is_not_a_label_is_an_error_instead_of_a_wrong_answer() -> None:
    with pytest.raises(ScoringError, match="'refund' is not one of the labels"):
        LABELS.score("refund", "refund")


def test_labels_that_were_given_stay() -> None:
    assert LABELS.fit(["other"]) is LABELS


@pytest.mark.parametrize(
    ("answer", "correct", "valid", "fields"),
    [
        ('{"count": 2, "name": "Ada"}', 1, 1, 1),
        ('{"name": "Ada", "count": 3}', 0, 1, 0.5),
        ('{"name": "Ada"}', 0, 0, 0),
        ('{"name": "Ada", "count": 2, "more": 1}', 0, 0, 0),
        ('{"name": "Ada", "count": "2"}', 0, 0, 0),
        ("[]", 0, 0, 0),
        ("null", 0, 0, 0),
        ("Here it is: " + EXPECTED, 0, 0, 0),
        (f"```json\n{EXPECTED}\n```", 0, 0, 0),
        ("[" * 100_000, 0, 0, 0),
    ],
)
def test_json_counts_only_when_the_whole_answer_fits_the_schema(
    answer: str, correct: float, valid: float, fields: float
) -> None:
    scores = JSON.score(answer, EXPECTED)
    assert {name: scores[name] for name in ("correct", "valid", "fields")} == {
        "correct": correct,
        "valid": valid,
        "fields": fields,
    }


@pytest.mark.parametrize(
    ("answer", "f1"),
    [
        ('{"a": 1, "b": [{"c": 2}, {"c": 3}]}', 1),
        ('{"b": [{"c": 3}, {"c": 2}], "a": 1}', 1),  # the order of a list is ignored
        ('{"a": 1}', 0.5),  # one of one found, of three wanted
        ('{"a": 1, "b": [], "x": 1, "y": 1, "z": 1}', 2 / 7),  # invented values count against it
        ('{"a": "1"}', 0),
        ("no", 0),
    ],
)
def test_field_f1_counts_leaf_values_with_their_paths(answer: str, f1: float) -> None:
    wanted = '{"a": 1, "b": [{"c": 2}, {"c": 3}]}'
    assert JsonScorer(type="json").score(answer, wanted)["field F1"] == pytest.approx(f1)


def test_a_deeply_nested_answer_is_scored() -> None:
    answer = '{"a": ' + "[" * 800 + "1" + "]" * 800 + "}"
    assert JsonScorer(type="json").score(answer, '{"a": 1}') == {"correct": 0, "valid": 1, "fields": 0, "field F1": 0}


def test_an_expected_answer_that_is_not_an_object_is_an_error() -> None:
    with pytest.raises(ScoringError, match="not a JSON object"):
        JSON.score("{}", "[]")


def test_a_text_can_be_nearly_right() -> None:
    scorer = ChrfScorer(type="chrf")
    assert scorer.score("the cat sat", "the cat sat") == {"chrF": pytest.approx(1), "exact": 1}
    assert 0.4 < scorer.score("the cat sat", "the cat sat down")["chrF"] < 1
    assert scorer.score("", "the cat")["chrF"] == 0


@given(answer=st.text(), expected=st.text(min_size=1))
def test_any_text_has_a_chrf_between_0_and_1(answer: str, expected: str) -> None:
    assert 0 <= ChrfScorer(type="chrf").score(answer, expected)["chrF"] <= 1 + 1e-9


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise OSError('gone')", "OSError: gone"),
        ("return 'high'", "ValueError"),
        ("return None", "TypeError"),
        ("return float('nan')", "finite numbers"),
        ("return {}", "finite numbers"),
        ("return {'a': 1, 'b': float('inf')}", "finite numbers"),
    ],
)
def test_a_function_that_returns_no_finite_number_is_the_scorers_fault(tmp_path: Path, body: str, reason: str) -> None:
    (tmp_path / "mine.py").write_text(f"def mine(answer, expected):\n    {body}\n")
    with pytest.raises(ScoringError, match=reason):
        FunctionScorer(type="function", function=f"{tmp_path / 'mine.py'}:mine").score("a", "b")


def test_a_function_returns_one_number_or_several(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def one(a, b):\n    return a == b\ndef two(a, b):\n    return {'x': 1, 'y': .5}\n"
    )
    file = tmp_path / "mine.py"
    assert FunctionScorer(type="function", function=f"{file}:one").score("a", "a") == {"score": 1}
    assert FunctionScorer(type="function", function=f"{file}:two").score("a", "a") == {"x": 1, "y": 0.5}


@pytest.mark.parametrize("function", ["mine", "gone.py:mine", "math:gone", "no_such_module:f", "math:pi; x", "math:__"])
def test_a_missing_function_is_refused(function: str) -> None:
    with pytest.raises(ValidationError):
        FunctionScorer(type="function", function=function)


STYLE = StyleScorer(
    type="style",
    rules={
        "greeting": Rule(match=r"\AHello"),
        "calm": Rule(avoid="!"),
        "order": Rule(keep=r"FH-\d+"),
        "brief": Rule(max_words=5),
    },
)


@pytest.mark.parametrize(
    ("answer", "broken"),
    [
        ("Hello, FH-12 is here.", set()),
        ("\nHello, FH-12 is here.\n", set()),
        ("Dear, FH-12 is here.", {"greeting"}),
        ("Hello! FH-12 is here.", {"calm"}),
        ("Hello, FH-13 is here.", {"order"}),
        ("Hello, FH-12 is FH-13.", {"order"}),
        ("Hello, it is here.", {"order"}),
        ("Hello, your order FH-12 is here.", {"brief"}),
        ("", {"greeting", "order"}),
    ],
)
def test_an_answer_is_in_style_when_it_meets_every_rule(answer: str, broken: set[str]) -> None:
    scores = STYLE.score(answer, "Hello, FH-12 came.")
    assert {name for name in STYLE.rules if not scores[name]} == broken
    assert scores["in style"] == (not broken)
    assert scores["rules"] == 1 - len(broken) / 4


@pytest.mark.parametrize(("scorer", "expected"), [(LABELS, "billing"), (JSON, EXPECTED), (STYLE, EXPECTED)])
@given(answer=st.text())
def test_any_answer_gets_scores_from_zero_to_one(scorer: Any, expected: str, answer: str) -> None:
    scores = scorer.score(answer, expected)
    assert all(0 <= score <= 1 for score in scores.values())


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "label", "labels": ["one"]},
        {"type": "json", "schema": {"type": "no such type"}},
        {"type": "style", "rules": {}},
        {"type": "style", "rules": {"empty": {}}},
        {"type": "style", "rules": {"broken": {"match": "("}}},
        {"type": "python", "code": "1"},
        {"type": "label", "labels": ["a", "b"], "extra": 1},
    ],
)
def test_a_scorer_that_makes_no_sense_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter[Any](Scorer).validate_json(json.dumps(spec))
