"""Answers that are a text: the very one, a label, or one that can be nearly right."""

import re
from typing import Annotated, Literal

from pydantic import Field

from loramux_loadtests.scorers.base import BaseScorer, Scores


class ExactScorer(BaseScorer):
    """The very answer that is expected, but for space around it."""

    type: Literal["exact"]

    def score(self, answer: str, expected: str) -> Scores:
        """`exact`: the same text."""
        return {"exact": float(answer.strip() == expected.strip())}


class LabelScorer(BaseScorer):
    """Classification. An answer that wraps the right label in other words is still accurate, but not exact."""

    type: Literal["label"]
    labels: Annotated[frozenset[str], Field(min_length=2)]

    def score(self, answer: str, expected: str) -> Scores:
        """`accuracy`: the only label named is the right one; `exact`: and nothing else is said."""
        return {"accuracy": float(self.named(answer) == expected), "exact": float(answer.strip() == expected)}

    def named(self, answer: str) -> str | None:
        """The only label that an answer names, None if there is none or several."""
        named = self.labels.intersection(re.findall(r"[\w-]+", answer.lower()))
        return next(iter(named)) if len(named) == 1 else None


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
