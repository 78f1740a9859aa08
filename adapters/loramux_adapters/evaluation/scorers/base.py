"""What all scorers have in common."""

from collections.abc import Iterable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

Scores = dict[str, float]


class ScoringError(Exception):
    """An answer could not be scored: the scorer's fault and not the answer's."""


class BaseScorer(BaseModel):
    """How an answer is scored, with its settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def knowing(self, expected: Iterable[str]) -> Self:  # noqa: ARG002 - labels do
        """The same scorer, which now knows every answer that the data expect."""
        return self

    def identity(self) -> dict[str, Any]:
        """What scores depend on, besides the answers: another identity means scores of another kind."""
        return self.model_dump(by_alias=True)

    def score(self, answer: str, expected: str) -> Scores:
        """Score an answer."""
        raise NotImplementedError

    async def grade(self, question: str, answer: str, expected: str) -> Scores:  # noqa: ARG002 - judges look at it
        """Score an answer, with the time that that takes; raises ScoringError."""
        return self.score(answer, expected)
