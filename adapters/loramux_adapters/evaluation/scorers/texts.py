"""Answers that are a text: the very one, a label, or one that can be nearly right."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field

from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores, ScoringError


class ExactScorer(BaseScorer):
    """The very answer that is expected, but for space around it."""

    type: Literal["exact"]

    def score(self, answer: str, expected: str) -> Scores:
        """`exact`: the same text."""
        return {"exact": float(answer.strip() == expected.strip())}


class LabelScorer(BaseScorer):
    """Classification: the labels, by default those of the data, in whatever letters and words an answer has them.

    An answer that wraps the right label in other words is still accurate, but not exact.
    """

    type: Literal["label"]
    labels: Annotated[frozenset[Annotated[str, Field(min_length=1)]], Field(min_length=2)] = frozenset()

    def knowing(self, expected: Iterable[str]) -> Self:
        """The same, with the labels of the data if none were given."""
        return self if self.labels else self.model_copy(update={"labels": frozenset(map(str.strip, expected))})

    def score(self, answer: str, expected: str) -> Scores:
        """`accuracy`: the only label named is the right one; `exact`: and nothing else is said."""
        right = self.known.get(expected.strip().casefold())
        if right is None:
            raise ScoringError(f"{expected.strip()!r} is expected, which is none of the labels")
        return {"accuracy": float(self.named(answer) == right), "exact": float(answer.strip() == expected.strip())}

    def named(self, answer: str) -> str | None:
        """The only label that an answer names, None if there is none or several."""
        named = {found.casefold() for found in self._pattern.findall(answer)} & self.known.keys()
        return self.known[named.pop()] if len(named) == 1 else None

    @cached_property
    def known(self) -> Mapping[str, str]:
        """The labels by their letters alone: those that differ in capitals only are the same one."""
        return {label.casefold(): label for label in sorted(self.labels, reverse=True)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # The longest first: "card" is not named by "card payment", if that is a label too.
        longest_first = sorted(self.labels, key=len, reverse=True)
        return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE)


class TextScorer(BaseScorer):
    """A text that can be nearly right: chrF, the F-score of n-grams of letters (Popović, 2015), by sacrebleu."""

    type: Literal["chrf"]
    word_order: Annotated[int, Field(ge=0, le=2)] = 0
    """2 for chrF++, which counts words too."""

    def score(self, answer: str, expected: str) -> Scores:
        """`chrF`: 0 to 1; `exact`: the same text."""
        # It takes a while to import, and few comparisons need it.
        from sacrebleu.metrics.chrf import CHRF

        score = CHRF(word_order=self.word_order).sentence_score(answer, [expected]).score / 100
        return {"chrF": score, "exact": float(answer.strip() == expected.strip())}
