"""Comparison of a job's adapter with the base and its best prompt, on the validation file."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from loramux_adapters.errors import AdapterError
from loramux_adapters.evaluation.items import Chat, Item, Tools
from loramux_adapters.evaluation.prompts import BARE, Prompt
from loramux_adapters.evaluation.questions import Questions
from loramux_adapters.evaluation.scorers.automatic import AutomaticScorer
from loramux_adapters.evaluation.verdict import MARGIN
from loramux_adapters.finetuning.datasets.report import ChatTokenCounter
from loramux_adapters.finetuning.jobs.baseline import choose_baseline
from loramux_adapters.finetuning.jobs.evaluation_plan import EvaluationPlan, plan_evaluation
from loramux_adapters.finetuning.jobs.evaluation_summary import (
    ADAPTER,
    START,
    EvaluationSummary,
    ScoredCompletion,
)
from loramux_adapters.finetuning.jobs.summarize import summarize
from loramux_adapters.models import VersionId

_log = logging.getLogger(__name__)
_CONCURRENCY = 4
"""Concurrent requests, few enough that users' requests still find room in the engine's batches."""


class Completion(NamedTuple):
    """The answer of a model, with its token counts and the seconds until its end."""

    text: str
    """As `answer_text` of its message."""
    input_tokens: int
    output_tokens: int
    seconds: float
    finish_reason: str | None = None
    """As in OpenAI's API: "length" for an answer that was cut off."""
    cached_tokens: int | None = None
    """Input tokens that the engine had in its cache; None if unknown."""


class CompleteChat(Protocol):
    """Complete a chat by a version, or by the base where `version` is None."""

    async def __call__(
        self,
        version: VersionId | None,
        chat: Chat,
        max_tokens: int,
        tools: Tools = (),
        parallel_tool_calls: bool = True,
    ) -> Completion:
        """Return the greedy completion of at most `max_tokens` tokens; the model may call `tools`, several or one.

        Raises:
            AdapterError: the version can't be loaded, or the engine refused the chat.
        """


class EvaluationResult(NamedTuple):
    """The summary of an evaluation, every answer that it rests on, and the messages that were sent."""

    summary: EvaluationSummary
    answers: Sequence[ScoredCompletion]
    selection_answers: Sequence[ScoredCompletion]
    """Answers to training examples, by which the baseline was chosen."""
    questions: Sequence[Item]
    lines: Sequence[int]
    """The line of the validation file that each question is from."""
    prompts: Sequence[Prompt]


class _Arm(NamedTuple):
    name: str
    version: VersionId | None
    prompt: Prompt


@dataclass(frozen=True)
class Evaluator:
    """Asks the same questions, at most `max_questions`, of the base and of an adapter.

    A prompt and its answer together have at most `max_context_tokens`; differences within `margin` do not matter.
    """

    complete: CompleteChat
    token_counter: ChatTokenCounter
    max_context_tokens: int
    max_questions: int
    margin: float = MARGIN

    async def evaluate(
        self, version: VersionId, start: VersionId | None, training: Path, validation: Path
    ) -> EvaluationResult | None:
        """Compare the version with the base, and with the version `start` that its training went on from, if any.

        Returns None if the training file has every validation example too.

        Raises:
            AdapterError: a file is invalid, or a request failed.
            OSError: a file can't be read.
        """
        plan = await asyncio.to_thread(self._plan, training, validation)
        if not plan.questions.items:
            return None
        adapter = _Arm(ADAPTER, version, plan.prompts[0])
        candidates = [_Arm(prompt.name, None, prompt) for prompt in plan.prompts]
        # The adapter was trained on these examples: its answers help to choose the measure, and prove nothing.
        tried = await self._answer_all([*candidates, adapter], plan.selection, plan.scorer)
        baseline = choose_baseline(tried, plan)
        arms = [arm for arm in candidates if arm.name in (BARE, baseline.name)]
        answers = await self._answer_all([*arms, adapter], plan.questions, baseline.scorer)
        answers += await self._try_start(start, plan, baseline.scorer)
        summary = await asyncio.to_thread(summarize, answers, plan, baseline, self.margin)
        return EvaluationResult(summary, answers, tried, plan.questions.items, plan.lines, [arm.prompt for arm in arms])

    def _plan(self, training: Path, validation: Path) -> EvaluationPlan:
        return plan_evaluation(
            training,
            validation,
            self.token_counter,
            max_context_tokens=self.max_context_tokens,
            max_questions=self.max_questions,
        )

    async def _try_start(
        self, start: VersionId | None, plan: EvaluationPlan, scorer: AutomaticScorer
    ) -> list[ScoredCompletion]:
        """Return the answers of the version that the training went on from; none if it was removed meanwhile."""
        if start is None:
            return []
        try:
            return await self._answer_all([_Arm(START, start, plan.prompts[0])], plan.questions, scorer)
        except AdapterError as error:
            _log.warning("%s, from which a training went on, was not asked: %s", start, error.message)
            return []

    async def _answer_all(
        self, arms: Sequence[_Arm], questions: Questions, scorer: AutomaticScorer
    ) -> list[ScoredCompletion]:
        semaphore = asyncio.Semaphore(_CONCURRENCY)

        async def answer(number: int, item: Item, arm: _Arm) -> ScoredCompletion:
            async with semaphore:
                chat = arm.prompt.add_to(item.messages)
                completion = await self.complete(
                    arm.version, chat, questions.max_answer_tokens, item.tools, item.parallel_tool_calls
                )
            scores = await asyncio.to_thread(scorer.among(item.tools).score, completion.text, item.expected)
            return ScoredCompletion(arm.name, number, item.expected, completion.text, scores, *completion[1:])

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(answer(number, item, arm))
                    for number, item in enumerate(questions.items)
                    for arm in arms
                ]
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        return [task.result() for task in tasks]
