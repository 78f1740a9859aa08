"""Holds a trial: every question is put to every arm, side by side."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from loramux_adapters.evaluation.measures import Measure, measures_for
from loramux_adapters.evaluation.prompts import Chat, Prompt, Questions, prompt_with_examples, questions
from loramux_adapters.evaluation.verdict import ADAPTER, BASE, Row, Trial, summed_up
from loramux_adapters.finetuning.datasets.conversations import Row as Question
from loramux_adapters.finetuning.datasets.report import ChatTokens
from loramux_adapters.models import VersionId

_AT_ONCE = 4
"""Requests under way: a trial must leave the engine to those who wait for an answer."""


class Reply(NamedTuple):
    """What a model answered, and what that took."""

    text: str
    input_tokens: int
    output_tokens: int
    seconds: float


class Ask(Protocol):
    """Puts a chat to a version, or to the base where that is None."""

    async def __call__(self, version: VersionId | None, chat: Chat, most_tokens: int) -> Reply:
        """Return the likeliest answer, cut off after `most_tokens`; raises AdapterError."""


class Held(NamedTuple):
    """What was found, and all answers."""

    trial: Trial
    rows: Sequence[Row]


class _Arm(NamedTuple):
    name: str
    version: VersionId | None
    prompt: Prompt


@dataclass(frozen=True)
class Examiner:
    """Asks up to `most` questions by `ask`, of a model whose prompt and answer may have `context` tokens together."""

    ask: Ask
    tokens: ChatTokens
    context: int
    most: int

    async def hold(self, version: VersionId, training: Path, validation: Path) -> Held | None:
        """Compare the version and the base on the validation file; None if nothing in it is new.

        Raises AdapterError, OSError.
        """
        asked = await asyncio.to_thread(questions, training, validation, self.tokens, self.most)
        if not asked.rows:
            return None
        prompt = await asyncio.to_thread(self._prompt, training, asked)
        bare = Prompt("", [])
        with_examples = _Arm(f"base with {len(prompt.shots)} examples in its prompt", None, prompt)
        arms = [_Arm(BASE, None, bare), with_examples, _Arm(ADAPTER, version, bare)]
        measures = measures_for([row["completion"][0]["content"] for row in asked.rows])
        rows = await self._answers(arms, asked, measures)
        return Held(summed_up(rows, measures[0].name, asked.left_out), rows)

    def _prompt(self, training: Path, asked: Questions) -> Prompt:
        return prompt_with_examples(training, self.tokens, self.context - asked.longest_prompt - asked.most_tokens)

    async def _answers(self, arms: Sequence[_Arm], asked: Questions, measures: Sequence[Measure]) -> list[Row]:
        places = asyncio.Semaphore(_AT_ONCE)

        async def answer(number: int, question: Question, arm: _Arm) -> Row:
            async with places:
                reply = await self.ask(arm.version, arm.prompt.before(question["prompt"]), asked.most_tokens)
            wanted = question["completion"][0]["content"]
            scores = {measure.name: measure.score(reply.text, wanted) for measure in measures}
            return Row(arm.name, number, wanted, reply.text, scores, *reply[1:])

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(answer(number, question, arm))
                    for number, question in enumerate(asked.rows)
                    for arm in arms
                ]
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in tasks]
