"""What an evaluation asks: its questions, the prompts to choose the baseline from, and how answers are scored."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.constant_answer import best_constant
from loramux_adapters.evaluation.duplicates import find_contradictions, prompt_key
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning
from loramux_adapters.evaluation.items import Item
from loramux_adapters.evaluation.prompts import Prompt, candidate_prompts
from loramux_adapters.evaluation.questions import Questions, leak_warnings, select_unseen
from loramux_adapters.evaluation.scorers.automatic import AutomaticScorer, choose_scorer
from loramux_adapters.evaluation.selection import MAX_SELECTION_ITEMS, MIN_SELECTION_ITEMS, split_for_selection
from loramux_adapters.finetuning.datasets.examples import iter_examples
from loramux_adapters.finetuning.datasets.reader import iter_conversations
from loramux_adapters.finetuning.datasets.report import ChatTokenCounter
from loramux_adapters.finetuning.errors import ChatTemplateError

_YIELD_EVERY, _YIELD_SECONDS = 50, 0.002
"""The planning thread sleeps after every 50 examples: the server's event loop needs the interpreter lock."""


@dataclass(frozen=True)
class EvaluationPlan:
    """The questions of the verdict, and training examples that choose the base's prompt but are in none of them."""

    questions: Questions
    selection: Questions
    prompts: Sequence[Prompt]
    """The smallest first; the first one is empty."""
    scorer: AutomaticScorer
    left_out: int
    warnings: Sequence[EvaluationWarning]
    lines: Sequence[int]
    """The line of the validation file that each question is from; the first line is 1."""

    def best_constant(self, measure: str) -> tuple[str | None, list[float]]:
        """Return the single answer that scores highest on all questions, if one scores above 0, and its scores."""
        expected = [item.expected for item in self.questions.items]
        return best_constant(lambda *pair: self.scorer.score(*pair)[measure], expected)


def plan_evaluation(
    training: Path, validation: Path, tokens: ChatTokenCounter, *, max_context_tokens: int, max_questions: int
) -> EvaluationPlan:
    """Plan an evaluation; without questions if the training file has every validation prompt too. Blocks.

    Raises:
        InvalidDataset: a file is invalid.
        OSError: a file can't be read.
    """
    trained, numbered = [item for _, item in _read_items(training)], list(_read_items(validation))
    lines, held_out = [line for line, _ in numbered], [item for _, item in numbered]
    indices, leaks = select_unseen(_yielding(trained), held_out, max_questions)
    items = [held_out[index] for index in indices]
    pool, chosen = _split_training(trained, len(items))
    questions = Questions.of(items, tokens.count_prompt, tokens.count_conversation)
    selection = Questions.of(chosen, tokens.count_prompt, tokens.count_conversation)
    longest = [max(sizes) for sizes in zip(_sizes(questions), _sizes(selection), strict=True)]
    both = [*trained, *items]
    prompts = candidate_prompts(
        pool,
        tokens.count_conversation,
        max_context_tokens - sum(longest),
        rng=Random(0),  # noqa: S311 - a choice
        has_system_role=_has_system_role(tokens),
    )
    return EvaluationPlan(
        questions=questions,
        selection=selection,
        prompts=[prompt for prompt in prompts if _is_accepted(prompt, items, tokens)],
        scorer=choose_scorer([item.expected for item in both], [item.tools for item in both]),
        left_out=len(leaks),
        warnings=[*leak_warnings(leaks, lines), *_contradictions(trained, held_out)],
        lines=[lines[index] for index in indices],
    )


def _is_accepted(prompt: Prompt, items: Sequence[Item], tokens: ChatTokenCounter) -> bool:
    """Whether the base's chat template takes a prompt; some refuse a user's message after a call without a result."""
    try:
        for item in items[:1]:
            tokens.count_prompt(prompt.add_to(item.messages), item.tools)
    except ChatTemplateError:
        return False
    return True


def _has_system_role(tokens: ChatTokenCounter) -> bool:
    """Whether the base's chat template accepts system messages; Gemma 2's does not."""
    try:
        tokens.count_conversation([{"role": "system", "content": "."}])
    except ChatTemplateError:
        return False
    return True


def _split_training(trained: Sequence[Item], questions: int) -> tuple[list[Item], list[Item]]:
    """Return training items for prompts, and others to choose a prompt with; each prompt only once.

    Few questions are quick, so the choice is to be, too.
    """
    distinct = list({prompt_key(item): item for item in trained}.values())
    most = max(MIN_SELECTION_ITEMS, min(MAX_SELECTION_ITEMS, questions // 2))
    selection, rest = split_for_selection(len(distinct), max_selection=most)
    return [distinct[index] for index in rest], [distinct[index] for index in selection]


def _contradictions(trained: Sequence[Item], held_out: Sequence[Item]) -> list[EvaluationWarning]:
    """Warn of prompts that have several answers, in each file and between them."""
    both = [*trained, *held_out]
    groups = find_contradictions(both)
    if not groups:
        return []
    answers = " and ".join(repr(both[index].expected[:60]) for index in groups[0][:2])
    message = f"{len(groups)} prompts have different answers in the data, such as {answers}: at most one can be right"
    return [EvaluationWarning(code="contradiction", message=message)]


def _sizes(questions: Questions) -> tuple[int, int]:
    return questions.max_prompt_tokens, questions.max_answer_tokens


def _read_items(path: Path) -> Iterator[tuple[int, Item]]:
    """Yield each item with the number of its line."""
    for conversation in iter_conversations(path):
        for example in reversed([*iter_examples(conversation)]):
            answer, parallel = answer_text(example["completion"][0]), example["parallel_tool_calls"]
            yield conversation.line, Item(example["prompt"], answer, example["tools"], parallel)


def _yielding(items: Sequence[Item]) -> Iterator[Item]:
    for number, item in enumerate(items, start=1):
        yield item
        if number % _YIELD_EVERY == 0:
            time.sleep(_YIELD_SECONDS)
