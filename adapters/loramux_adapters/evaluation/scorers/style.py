"""Scoring of house style by rules that a program can check."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores


class Rule(BaseScorer):
    """One rule of a style; at least one of `match`, `avoid`, `keep` and `max_words`.

    `match` must be found in the answer, and `avoid` must not; `keep` must find the same texts in the answer as in the
    expected answer, in the same order.
    """

    match: re.Pattern[str] | None = None
    avoid: re.Pattern[str] | None = None
    keep: re.Pattern[str] | None = None
    max_words: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a rule needs match, avoid, keep or max_words")
        return self

    def is_met(self, answer: str, expected: str) -> bool:
        """Whether `answer` meets the rule."""
        return (
            (self.match is None or self.match.search(answer) is not None)
            and (self.avoid is None or self.avoid.search(answer) is None)
            and (self.keep is None or self.keep.findall(answer) == self.keep.findall(expected))
            and (self.max_words is None or len(answer.split()) <= self.max_words)
        )


class StyleScorer(BaseScorer):
    """House style: named rules that a program can check."""

    type: Literal["style"]
    rules: Annotated[dict[str, Rule], Field(min_length=1)]

    def score(self, answer: str, expected: str) -> Scores:
        """`in style`: every rule is met; `rules`: the share of rules that are met; then each rule by its name."""
        met = {name: float(rule.is_met(answer.strip(), expected)) for name, rule in self.rules.items()}
        return {"in style": float(all(met.values())), "rules": sum(met.values()) / len(met)} | met
