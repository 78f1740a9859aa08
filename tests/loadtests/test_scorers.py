import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from loramux_loadtests.scorers import Scorer
from loramux_loadtests.scorers.structured import JsonScorer
from loramux_loadtests.scorers.style import Rule, StyleScorer
from loramux_loadtests.scorers.texts import LabelScorer

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
    assert JSON.score(answer, EXPECTED) == {"correct": correct, "valid": valid, "fields": fields}


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
def test_an_answer_is_in_style_when_it_keeps_every_rule(answer: str, broken: set[str]) -> None:
    scores = STYLE.score(answer, "Hello, FH-12 came.")
    assert {name for name in STYLE.rules if not scores[name]} == broken
    assert scores["in style"] == (not broken)
    assert scores["rules"] == 1 - len(broken) / 4


@pytest.mark.parametrize("scorer", [LABELS, JSON, STYLE])
@given(answer=st.text())
def test_any_answer_gets_scores_from_zero_to_one(scorer: Any, answer: str) -> None:
    scores = scorer.score(answer, EXPECTED)
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
