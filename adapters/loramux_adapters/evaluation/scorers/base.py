"""The base class of all scorers."""

from collections.abc import Iterable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

Scores = dict[str, float]


class ScoringError(Exception):
    """The scorer failed on an answer; this says nothing about the answer."""


class BaseScorer(BaseModel):
    """A way to score answers, with its settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def fit(self, expected: Iterable[str]) -> Self:  # noqa: ARG002 - labels need it
        """Return the scorer fitted to the expected answers of all items, such as their labels."""
        return self

    def cache_key(self) -> dict[str, Any]:
        """Everything that scores depend on besides the answers; scores of different keys are not comparable."""
        return self.model_dump(by_alias=True)

    def score(self, answer: str, expected: str) -> Scores:
        """Score an answer, 0..1 by the scores' names.

        Raises:
            ScoringError: the scorer failed.
        """
        raise NotImplementedError

    async def score_async(self, question: str, answer: str, expected: str) -> Scores:  # noqa: ARG002 - judges need it
        """Score an answer to `question`, possibly by asking another server; raises as `score` does."""
        return self.score(answer, expected)
