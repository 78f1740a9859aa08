"""Comparison of a job's adapter with the base, without and with examples in its prompt, on the validation file."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from loramux_adapters.evaluation.items import Chat, Item
from loramux_adapters.evaluation.prompts import Prompt, Questions, few_shot_prompt, select_questions
from loramux_adapters.evaluation.scorers.automatic import AutomaticScorer, choose_scorer
from loramux_adapters.finetuning.datasets.examples import examples_of
from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.datasets.report import ChatTokenCounter
from loramux_adapters.finetuning.jobs.evaluation_summary import (
    ADAPTER,
    BASE,
    EvaluationSummary,
    ScoredCompletion,
    summarize,
)
from loramux_adapters.models import VersionId

_CONCURRENCY = 4
"""Concurrent requests, few enough that users' requests still find room in the engine's batches."""
_NO_PROMPT = Prompt("", [])


class Completion(NamedTuple):
    """The answer of a model, with its token counts and the seconds until its end."""

    text: str
    input_tokens: int
    output_tokens: int
    seconds: float


class CompleteChat(Protocol):
    """Complete a chat by a version, or by the base where `version` is None."""

    async def __call__(self, version: VersionId | None, chat: Chat, max_tokens: int) -> Completion:
        """Return the greedy completion of at most `max_tokens` tokens.

        Raises:
            AdapterError: the version can't be loaded, or the engine refused the chat.
        """


class EvaluationResult(NamedTuple):
    """The summary of an evaluation, and every answer that it rests on."""

    summary: EvaluationSummary
    answers: Sequence[ScoredCompletion]


class _Arm(NamedTuple):
    name: str
    version: VersionId | None
    prompt: Prompt


@dataclass(frozen=True)
class Evaluator:
    """Asks the same questions, at most `max_questions`, of the base and of an adapter.

    A prompt and its answer together have at most `max_context_tokens`.
    """

    complete: CompleteChat
    token_counter: ChatTokenCounter
    max_context_tokens: int
    max_questions: int

    async def evaluate(self, version: VersionId, training: Path, validation: Path) -> EvaluationResult | None:
        """Compare the version with the base; None if the training file has every validation example too.

        Raises:
            AdapterError: a file is invalid, or a request failed.
            OSError: a file can't be read.
        """
        questions, prompt = await asyncio.to_thread(self._prepare, training, validation)
        if not questions.items:
            return None
        scorer = choose_scorer([item.expected for item in questions.items])
        arms = [
            _Arm(BASE, None, _NO_PROMPT),
            _Arm(f"base with {len(prompt.shots)} examples in its prompt", None, prompt),
            _Arm(ADAPTER, version, _NO_PROMPT),
        ]
        answers = await self._answer_all(arms, questions, scorer)
        return EvaluationResult(summarize(answers, scorer.measure, questions.left_out), answers)

    def _prepare(self, training: Path, validation: Path) -> tuple[Questions, Prompt]:
        training_items = _read_items(training)
        questions = select_questions(
            training_items,
            _read_items(validation),
            count_prompt=self.token_counter.count_prompt,
            count_conversation=self.token_counter.count_conversation,
            max_questions=self.max_questions,
        )
        if not questions.items:
            return questions, _NO_PROMPT
        max_tokens = self.max_context_tokens - questions.max_prompt_tokens - questions.max_answer_tokens
        return questions, few_shot_prompt(training_items, self.token_counter.count_conversation, max_tokens)

    async def _answer_all(
        self, arms: Sequence[_Arm], questions: Questions, scorer: AutomaticScorer
    ) -> list[ScoredCompletion]:
        semaphore = asyncio.Semaphore(_CONCURRENCY)

        async def answer(number: int, item: Item, arm: _Arm) -> ScoredCompletion:
            async with semaphore:
                chat = arm.prompt.add_to(item.messages)
                completion = await self.complete(arm.version, chat, questions.max_answer_tokens)
            scores = await asyncio.to_thread(scorer.score, completion.text, item.expected)
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


def _read_items(path: Path) -> list[Item]:
    examples = examples_of(read_dataset(path))
    return [Item(example["prompt"], example["completion"][0]["content"]) for example in examples]
