"""Answers are scored when all are there: scoring takes time of its own, which must not be in any answer's."""

import asyncio
from collections.abc import Callable, Sequence

from loramux_adapters.evaluation.scorers import Scores, ScoringError
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.rows import Answer, Journal, Row


async def score(
    comparison: Comparison, answers: Sequence[Answer], journal: Journal, at_once: int, done: Callable[[], None]
) -> list[Row]:
    """The answers with their scores. Those that are in the journal are taken from there, others are put there.

    An answer that the scorer fails on has none, nor has one that gets scores of other names than the first.
    """
    places = asyncio.Semaphore(at_once)  # a judge is a server, too

    async def one(answer: Answer) -> Row:
        async with places:
            scores, error = journal.scores.get(answer.key), None
            if scores is None:
                scores, error = await _given(comparison, answer)
            if scores and answer.key not in journal.scores:
                journal.scored(answer.key, scores)
        done()
        return Row(**answer.model_dump(), scores=scores, error=error)

    return _alike(await asyncio.gather(*map(one, answers)))


async def _given(comparison: Comparison, answer: Answer) -> tuple[Scores, str | None]:
    item = comparison.items[answer.item]
    question = "\n".join(message["content"] for message in item.messages)
    try:
        return await comparison.scorer.grade(question, answer.text, item.expected), None
    except ScoringError as error:
        return {}, str(error)


def _alike(rows: Sequence[Row]) -> list[Row]:
    """Scores can be put together only where all have the same names."""
    names = next((list(row.scores) for row in rows if row.scores), [])
    other = f"the scorer gave other scores here than {', '.join(names)}"
    return [
        row if not row.scores or list(row.scores) == names else row.model_copy(update={"scores": {}, "error": other})
        for row in rows
    ]
