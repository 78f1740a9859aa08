"""House style: rules that a program can check."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores


class Rule(BaseScorer):
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


class StyleScorer(BaseScorer):
    """House style: rules that a program can check, each with a name."""

    type: Literal["style"]
    rules: Annotated[dict[str, Rule], Field(min_length=1)]

    def score(self, answer: str, expected: str) -> Scores:
        """`in style`: every rule is kept; `rules`: the share of those kept; then each rule by its name."""
        kept = {name: float(rule.is_kept(answer.strip(), expected)) for name, rule in self.rules.items()}
        return {"in style": float(all(kept.values())), "rules": sum(kept.values()) / len(kept)} | kept
