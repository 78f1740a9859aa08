"""Scoring by a model as the judge."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from loramux_adapters.evaluation.grading import GRADE_FORMAT, MAX_TOKENS, grading_messages, parse_grade
from loramux_adapters.evaluation.scorers import Scorer
from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores, ScoringError
from loramux_loadtests.client import ChatClient
from loramux_loadtests.compare.automatic import AutoScorer


class JudgeScorer(BaseScorer):
    """A model on any OpenAI-compatible server that grades answers from 1 to 5. Its key is never dumped or logged."""

    type: Literal["judge"]
    url: str
    model: str
    rubric: Annotated[str, Field(min_length=1)]
    api_key: Annotated[SecretStr | None, Field(exclude=True, repr=False)] = None

    async def score_async(self, question: str, answer: str, expected: str) -> Scores:
        """`judged`: the grade, scaled to 0..1.

        Raises:
            ScoringError: the judge did not answer with a grade.
        """
        content = {"question": question, "reference answer": expected, "answer to grade": answer}
        async with ChatClient(self.url, self.api_key.get_secret_value() if self.api_key else None) as client:
            reply = await client.chat(
                self.model,
                grading_messages(self.rubric, content),
                max_tokens=MAX_TOKENS,
                extra={"response_format": GRADE_FORMAT},
            )
        if not reply.ok:
            raise ScoringError(f"the judge could not be asked: {reply.error}")
        return {"judged": parse_grade(reply.text)}


ComparisonScorer = Annotated[Scorer | AutoScorer | JudgeScorer, Field(discriminator="type")]
"""Every scorer that a plan or `--scorer` may name."""
