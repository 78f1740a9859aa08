"""Answers that are JSON."""

import json
from collections import Counter
from typing import Any, Literal, Self

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
from pydantic import Field, model_validator

from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores, ScoringError


class JsonScorer(BaseScorer):
    """Structured output: the whole answer is one JSON object, and fits the schema if there is one."""

    type: Literal["json"]
    json_schema: dict[str, Any] = Field(default={}, alias="schema")

    @model_validator(mode="after")
    def _is_a_schema(self) -> Self:
        try:
            jsonschema.Draft202012Validator.check_schema(self.json_schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"schema: {error.message}") from error
        return self

    def score(self, answer: str, expected: str) -> Scores:
        """`correct`: equal to the expected object; `valid`: fits the schema; `fields`: share of the right members.

        `field F1`: of all single values with their places in the object, so that what is made up counts against it.
        Raises ScoringError if no object is expected.
        """
        wanted, found = json_object(expected), self._parsed(answer)
        if wanted is None:
            raise ScoringError("the expected answer is no JSON object")
        right = sum(key in found and found[key] == value for key, value in wanted.items()) if found else 0
        return {
            "correct": float(found == wanted),
            "valid": float(found is not None),
            "fields": right / len(wanted) if wanted else float(found == wanted),
            "field F1": _f1(_leaves(found or {}), _leaves(wanted)),
        }

    def _parsed(self, answer: str) -> dict[str, Any] | None:
        value = json_object(answer)
        fits = value is not None and jsonschema.Draft202012Validator(self.json_schema).is_valid(value)
        return value if fits else None


def json_object(text: str) -> dict[str, Any] | None:
    """Return the object that a text is, None if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _leaves(value: object, place: str = "") -> Counter[tuple[str, str]]:
    """Every value that has none below it, with its place; a list's places are not told apart."""
    if isinstance(value, dict):
        return sum((_leaves(below, f"{place}.{key}") for key, below in value.items()), Counter())
    if isinstance(value, list):
        return sum((_leaves(below, f"{place}[]") for below in value), Counter())
    return Counter([(place, json.dumps(value))])


def _f1(found: Counter[tuple[str, str]], wanted: Counter[tuple[str, str]]) -> float:
    both = found.total() + wanted.total()
    return 2 * (found & wanted).total() / both if both else 1.0
