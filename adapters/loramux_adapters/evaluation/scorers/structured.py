"""Scoring of JSON answers."""

import json
from collections import Counter
from typing import Any, Literal, Self

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
from pydantic import Field, model_validator

from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores, ScoringError


class JsonScorer(BaseScorer):
    """Structured output: the whole answer must be one JSON object that fits the schema, if there is one."""

    type: Literal["json"]
    json_schema: dict[str, Any] = Field(default={}, alias="schema")

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        try:
            jsonschema.Draft202012Validator.check_schema(self.json_schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"schema: {error.message}") from error
        return self

    def score(self, answer: str, expected: str) -> Scores:
        """Score an answer as an object.

        `correct`: equal to the expected object; `valid`: fits the schema; `fields`: share of the expected members
        that are equal; `field F1`: F1 of all leaf values with their paths, which counts invented values against it.

        Raises:
            ScoringError: the expected answer is not a JSON object.
        """
        wanted, found = parse_json_object(expected), self._parse_valid(answer)
        if wanted is None:
            raise ScoringError("the expected answer is not a JSON object")
        right = sum(key in found and found[key] == value for key, value in wanted.items()) if found else 0
        return {
            "correct": float(found == wanted),
            "valid": float(found is not None),
            "fields": right / len(wanted) if wanted else float(found == wanted),
            "field F1": _f1(_leaf_values(found or {}), _leaf_values(wanted)),
        }

    def _parse_valid(self, answer: str) -> dict[str, Any] | None:
        value = parse_json_object(answer)
        fits = value is not None and jsonschema.Draft202012Validator(self.json_schema).is_valid(value)
        return value if fits else None


def _leaf_values(document: object) -> Counter[tuple[str, str]]:
    """Count all leaf values by their paths; positions in a list are not distinguished."""
    leaves: Counter[tuple[str, str]] = Counter()
    pending = [("", document)]
    while pending:  # not recursive: a model may nest an answer as deeply as the JSON parser allows
        path, value = pending.pop()
        if isinstance(value, dict):
            pending.extend((f"{path}.{key}", child) for key, child in value.items())
        elif isinstance(value, list):
            pending.extend((f"{path}[]", child) for child in value)
        else:
            leaves[path, json.dumps(value)] += 1
    return leaves


def _f1(found: Counter[tuple[str, str]], wanted: Counter[tuple[str, str]]) -> float:
    total = found.total() + wanted.total()
    return 2 * (found & wanted).total() / total if total else 1.0
