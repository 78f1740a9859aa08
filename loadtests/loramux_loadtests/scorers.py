"""How good an answer is, when there is one right answer to hold it against: a label, a JSON object, a style.

A scorer gives every answer a few numbers between 0 and 1; the first is the one that counts, the others say why. What
an example expects stands in its own folder (compare.yaml), so that new ones need no code here.
"""

import json
import re
from typing import Annotated, Any, Literal, Self

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
from pydantic import BaseModel, ConfigDict, Field, model_validator

Scores = dict[str, float]


class _Scorer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelScorer(_Scorer):
    """Classification. An answer that wraps the right label in other words is still accurate, but not exact."""

    type: Literal["label"]
    labels: Annotated[frozenset[str], Field(min_length=2)]

    def score(self, answer: str, expected: str) -> Scores:
        """`accuracy`: the only label named is the right one; `exact`: and nothing else is said."""
        named = self.labels.intersection(re.findall(r"[\w-]+", answer.lower()))
        return {"accuracy": float(named == {expected}), "exact": float(answer.strip() == expected)}


class JsonScorer(_Scorer):
    """Structured output: the whole answer is one JSON value that fits the schema."""

    type: Literal["json"]
    json_schema: dict[str, Any] = Field(alias="schema")

    @model_validator(mode="after")
    def _is_a_schema(self) -> Self:
        try:
            jsonschema.Draft202012Validator.check_schema(self.json_schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"schema: {error.message}") from error
        return self

    def score(self, answer: str, expected: str) -> Scores:
        """`correct`: equal to the expected object; `valid`: fits the schema; `fields`: share of the right members."""
        wanted = json.loads(expected)
        found = self._parsed(answer)
        right = sum(found.get(key) == value for key, value in wanted.items()) if found else 0
        return {
            "correct": float(found == wanted),
            "valid": float(found is not None),
            "fields": right / len(wanted),
        }

    def _parsed(self, answer: str) -> dict[str, Any] | None:
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            return None
        fits = isinstance(value, dict) and jsonschema.Draft202012Validator(self.json_schema).is_valid(value)
        return value if fits else None


class Rule(_Scorer):
    """One rule of a style; of `match`, `avoid`, `keep` and `max_words` it has those that it is about.

    `match` must be found in an answer and `avoid` must not; what `keep` finds in the expected answer must be found in
    this one too, in the same order and nothing else.
    """

    match: re.Pattern[str] | None = None
    avoid: re.Pattern[str] | None = None
    keep: re.Pattern[str] | None = None
    max_words: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a rule needs match, avoid, keep or max_words")
        return self

    def is_kept(self, answer: str, expected: str) -> bool:
        """Whether `answer` keeps to the rule."""
        return (
            (self.match is None or self.match.search(answer) is not None)
            and (self.avoid is None or self.avoid.search(answer) is None)
            and (self.keep is None or self.keep.findall(answer) == self.keep.findall(expected))
            and (self.max_words is None or len(answer.split()) <= self.max_words)
        )


class StyleScorer(_Scorer):
    """House style: rules that a program can check, each with a name."""

    type: Literal["style"]
    rules: Annotated[dict[str, Rule], Field(min_length=1)]

    def score(self, answer: str, expected: str) -> Scores:
        """`in style`: every rule is kept; `rules`: the share of those kept; then each rule by its name."""
        kept = {name: float(rule.is_kept(answer.strip(), expected)) for name, rule in self.rules.items()}
        return {"in style": float(all(kept.values())), "rules": sum(kept.values()) / len(kept)} | kept


Scorer = Annotated[LabelScorer | JsonScorer | StyleScorer, Field(discriminator="type")]
