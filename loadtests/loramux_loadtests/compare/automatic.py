"""The scorer that is chosen by the expected answers."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import PrivateAttr

from loramux_adapters.evaluation.scorers.automatic import AutomaticScorer, choose_scorer
from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores


class AutoScorer(BaseScorer):
    """JSON objects by their members, labels by accuracy, other short answers by equality, longer ones by chrF."""

    type: Literal["auto"]
    _expected: tuple[str, ...] = PrivateAttr(default=())

    def fit(self, expected: Iterable[str]) -> Self:
        """Choose by these answers."""
        fitted = self.model_copy()
        fitted._expected = tuple(expected)
        return fitted

    @cached_property
    def chosen(self) -> AutomaticScorer:
        """The scorer for the answers that this one was fitted to."""
        return choose_scorer(self._expected)

    def cache_key(self) -> dict[str, Any]:
        """The key of the chosen scorer, with the names of its scores."""
        return {"type": self.type, "scorer": self.chosen.scorer.cache_key(), "names": dict(self.chosen.names)}

    def score(self, answer: str, expected: str) -> Scores:
        """Score as the chosen scorer does, which may raise ScoringError."""
        return self.chosen.score(answer, expected)
