"""Scoring of all answers after the last request, so that it takes no time from any of them."""

import asyncio
from collections.abc import Callable, Sequence

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.scorers import Scores, ScoringError
from loramux_loadtests.compare.answer_log import AnswerLog, MeasuredAnswer, ScoredAnswer
from loramux_loadtests.compare.plan import Comparison


async def score_answers(
    comparison: Comparison,
    answers: Sequence[MeasuredAnswer],
    log: AnswerLog,
    concurrency: int,
    on_answer: Callable[[], None],
) -> list[ScoredAnswer]:
    """Return the answers with their scores, from the log or newly scored and logged; calls `on_answer` after each.

    An answer that the scorer fails on has no scores, nor has one whose scores have other names than the first's.
    """
    semaphore = asyncio.Semaphore(concurrency)  # a judge is a server, too

    async def one(answer: MeasuredAnswer) -> ScoredAnswer:
        async with semaphore:
            scores, error = log.scores.get(answer.key), None
            if scores is None:
                scores, error = await _score_one(comparison, answer)
            if scores and answer.key not in log.scores:
                log.add_scores(answer.key, scores)
        on_answer()
        return ScoredAnswer(**answer.model_dump(), scores=scores, error=error)

    return _with_same_score_names(await asyncio.gather(*map(one, answers)))


async def _score_one(comparison: Comparison, answer: MeasuredAnswer) -> tuple[Scores, str | None]:
    item = comparison.items[answer.item]
    question = "\n".join(answer_text(message) for message in item.messages)
    try:
        return await comparison.scorer.score_async(question, answer.text, item.expected), None
    except ScoringError as error:
        return {}, str(error)


def _with_same_score_names(answers: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
    """Drop scores whose names differ from the first's: they can't be averaged."""
    names = next((list(answer.scores) for answer in answers if answer.scores), [])
    error = f"the scorer returned other scores than {', '.join(names)} for this answer"
    return [
        answer
        if not answer.scores or list(answer.scores) == names
        else answer.model_copy(update={"scores": {}, "error": error})
        for answer in answers
    ]
