"""Asks a job's adapter some of its own training questions through the engine, before it is promoted.

An adapter that has learned its answers, and does not give them, was trained on something else than what is served.
"""

import asyncio
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loramux_adapters.errors import AdapterError
from loramux_adapters.evaluation.calls import ARGUMENTS_KEY, answer_text, parse_calls
from loramux_adapters.evaluation.items import Chat, Tools
from loramux_adapters.evaluation.reasoning import END, after_reasoning
from loramux_adapters.finetuning.datasets.examples import Example, examples_of
from loramux_adapters.finetuning.datasets.reader import read_dataset
from loramux_adapters.finetuning.datasets.report import ChatTokenCounter
from loramux_adapters.finetuning.jobs.errors import SelfTestFailed
from loramux_adapters.finetuning.jobs.evaluation import CompleteChat
from loramux_adapters.finetuning.jobs.models import JobEvent
from loramux_adapters.models import VersionId

MAX_QUESTIONS = 12
LAST_STEPS = 10
"""Steps at the end of the training whose mean accuracy is the final one."""
MIN_TOKEN_ACCURACY = 0.95
"""Final share of the answers' tokens predicted correctly, from which on the answers count as learned."""
MIN_RIGHT_SHARE = 0.5
_EXPECTED_RIGHT_SHARE = 0.9
_MAX_COMPARED_TOKENS = 64
_CONCURRENCY = 4
_log = logging.getLogger(__name__)


class Learned(NamedTuple):
    """The training loss and token accuracy at the end of a training: means over its last steps."""

    loss: float
    accuracy: float

    @property
    def comparable_tokens(self) -> int:
        """The number of tokens from an answer's beginning that should all be right in 9 of 10 answers."""
        if self.accuracy >= 1:
            return _MAX_COMPARED_TOKENS
        tokens = math.log(_EXPECTED_RIGHT_SHARE) / math.log(self.accuracy)
        return min(_MAX_COMPARED_TOKENS, max(1, int(tokens)))


class _Question(NamedTuple):
    messages: Chat
    expected: str
    """The answer, or its beginning where not all of it can be expected to be right."""
    max_tokens: int
    tools: Tools
    parallel_tool_calls: bool

    def is_answered_by(self, answer: str) -> bool:
        """Whether the answer begins as expected; reasoning in the training data is not compared."""
        if END not in self.expected:
            return answer.strip().startswith(self.expected.strip())
        return after_reasoning(answer) == after_reasoning(self.expected)


@dataclass(frozen=True)
class SelfTest:
    """Asks up to 12 training questions if the training says that their answers were learned."""

    complete: CompleteChat
    token_counter: ChatTokenCounter

    async def run(self, version: VersionId, training: Path, metrics: Sequence[Mapping[str, Any]]) -> JobEvent:
        """Return an event with the result, or with why nothing was asked; `metrics` are those of the training's steps.

        Raises:
            SelfTestFailed: the answers were learned, but the engine gives other ones.
        """
        learned = final_metrics(metrics)
        if learned is None or learned.accuracy < MIN_TOKEN_ACCURACY:
            return JobEvent(_skipped(learned))
        try:
            questions = await asyncio.to_thread(self._questions, training, learned)
            right = await self._count_right(version, questions)
        except (AdapterError, OSError) as error:
            _log.warning("the self-test of %s could not be run", version, exc_info=error)
            reason = error.message if isinstance(error, AdapterError) else "a file can't be read"
            return JobEvent(f"The self-test could not be run: {reason}", "warn")
        if right < MIN_RIGHT_SHARE * len(questions):
            raise SelfTestFailed(_failed(version, right, len(questions), learned))
        return JobEvent(f"Self-test: {right} of {len(questions)} training questions were answered as trained")

    def _questions(self, training: Path, learned: Learned) -> list[_Question]:
        examples = _with_one_answer(examples_of(read_dataset(training)))
        chosen = random.Random(0).sample(examples, min(MAX_QUESTIONS, len(examples)))  # noqa: S311 - not a secret
        return [self._question(example, learned.comparable_tokens) for example in chosen]

    def _question(self, example: Example, tokens: int) -> _Question:
        messages, tools = example["prompt"], example["tools"]
        answer = answer_text(example["completion"][0])
        total = self.token_counter.count_conversation(messages + example["completion"], tools)
        total -= self.token_counter.count_prompt(messages, tools)
        expected, most = _comparable(answer, total, tokens)
        return _Question(messages, expected, most, tools, example["parallel_tool_calls"])

    async def _count_right(self, version: VersionId, questions: Sequence[_Question]) -> int:
        semaphore = asyncio.Semaphore(_CONCURRENCY)

        async def ask(question: _Question) -> bool:
            async with semaphore:
                completion = await self.complete(
                    version, question.messages, question.max_tokens, question.tools, question.parallel_tool_calls
                )
            return question.is_answered_by(completion.text)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(question)) for question in questions]
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        return sum(task.result() for task in tasks)


def _comparable(answer: str, total: int, tokens: int) -> tuple[str, int]:
    """Return what can be expected of an answer of `total` tokens, about `tokens` of it, and how many to allow."""
    if END in answer:
        return answer, 2 * total
    if total <= tokens:
        return answer, total
    characters = max(1, len(answer) * tokens // total)
    if not parse_calls(answer):
        return answer[:characters], min(total, 2 * tokens + 8)
    # All calls begin alike up to the name of the tool, and one that is cut off is none.
    return answer[: max(characters, answer.index(ARGUMENTS_KEY))], total


def final_metrics(metrics: Sequence[Mapping[str, Any]]) -> Learned | None:
    """Return the means of the last steps; None if no step has an accuracy."""
    names = ("train_loss", "train_mean_token_accuracy")
    steps = [[values.get(name) for name in names] for values in metrics]
    measured = [(loss, accuracy) for loss, accuracy in steps if loss is not None and accuracy is not None]
    last = measured[-LAST_STEPS:]
    if not last:
        return None
    losses, accuracies = zip(*last, strict=True)
    return Learned(sum(losses) / len(last), sum(accuracies) / len(last))


def _with_one_answer(examples: Sequence[Example]) -> list[Example]:
    """Return the examples whose prompts have the same answer everywhere, each prompt once."""
    answers: dict[str, set[str]] = {}
    first: dict[str, Example] = {}
    for example in examples:
        key = repr((example["prompt"], example["tools"]))
        answers.setdefault(key, set()).add(answer_text(example["completion"][0]))
        first.setdefault(key, example)
    return [example for key, example in first.items() if len(answers[key]) == 1]


def _skipped(learned: Learned | None) -> str:
    if learned is None:
        return "The self-test was skipped: the training reported no accuracy"
    return (
        f"The self-test was skipped: the answers were not learned by heart (token accuracy {learned.accuracy:.2f} in "
        f"the last steps; the test needs {MIN_TOKEN_ACCURACY})"
    )


def _failed(version: VersionId, right: int, asked: int, learned: Learned) -> str:
    return (
        f"Only {right} of {asked} training questions were answered as trained, although the training ended with a "
        f"token accuracy of {learned.accuracy:.2f} (loss {learned.loss:.2g}). Probably the chat template renders "
        "answers differently from how the endpoint asks for them, or generation_config.json changes the answers. "
        f"{version} was added but not promoted: ask it training questions to see what it answers"
    )
