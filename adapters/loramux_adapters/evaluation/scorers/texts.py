"""Scoring of text answers: exact, as a label, or by similarity."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field

from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores, ScoringError


class ExactScorer(BaseScorer):
    """Exact match, ignoring surrounding whitespace."""

    type: Literal["exact"]

    def score(self, answer: str, expected: str) -> Scores:
        """`exact`: the same text."""
        return {"exact": float(answer.strip() == expected.strip())}


class LabelScorer(BaseScorer):
    """Classification: an answer must name exactly one label, the right one; case and other words are ignored.

    `labels` are by default the expected answers of the data.
    """

    type: Literal["label"]
    labels: Annotated[frozenset[Annotated[str, Field(min_length=1)]], Field(min_length=2)] = frozenset()

    def fit(self, expected: Iterable[str]) -> Self:
        """Take the labels from the data if none were given."""
        return self if self.labels else self.model_copy(update={"labels": frozenset(map(str.strip, expected))})

    def score(self, answer: str, expected: str) -> Scores:
        """`accuracy`: the only label named is the right one; `exact`: the answer is nothing but the label.

        Raises:
            ScoringError: the expected answer is not a label.
        """
        right = self.labels_by_casefold.get(expected.strip().casefold())
        if right is None:
            raise ScoringError(f"the expected answer {expected.strip()!r} is not one of the labels")
        return {"accuracy": float(self.find_label(answer) == right), "exact": float(answer.strip() == expected.strip())}

    def find_label(self, answer: str) -> str | None:
        """The only label that an answer names, None if it names none or several."""
        named = {found.casefold() for found in self._pattern.findall(answer)} & self.labels_by_casefold.keys()
        return self.labels_by_casefold[named.pop()] if len(named) == 1 else None

    @cached_property
    def labels_by_casefold(self) -> Mapping[str, str]:
        """The labels by their case-folded form; labels that differ only in case count as one."""
        return {label.casefold(): label for label in sorted(self.labels, reverse=True)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Longest first: "card payment" does not name the label "card", if it is a label itself.
        longest_first = sorted(self.labels, key=len, reverse=True)
        return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE)


class ChrfScorer(BaseScorer):
    """Similarity of texts: chrF, the F-score of character n-grams (Popović, 2015), by sacrebleu."""

    type: Literal["chrf"]
    word_order: Annotated[int, Field(ge=0, le=2)] = 0
    """2 for chrF++, which also counts word n-grams."""

    def score(self, answer: str, expected: str) -> Scores:
        """`chrF`: 0 to 1; `exact`: the same text."""
        # Imported late: it is slow to import, and few comparisons need it.
        from sacrebleu.metrics.chrf import CHRF

        score = CHRF(word_order=self.word_order).sentence_score(answer, [expected]).score / 100
        return {"chrF": score, "exact": float(answer.strip() == expected.strip())}
