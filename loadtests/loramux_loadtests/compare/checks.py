"""Warnings of a comparison: what makes its verdict doubtful, from data, prompts, answers and scores."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from loramux_adapters.evaluation.answer_checks import CheckedAnswer, check_answers
from loramux_adapters.evaluation.duplicates import find_contradictions, find_leaks
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning, WarningCode
from loramux_adapters.evaluation.items import Chat, Item
from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.arms import ArmAnswers
from loramux_loadtests.compare.items import system_messages
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.prompt_checks import prompt_warnings


def leaked_items(comparison: Comparison) -> dict[int, str]:
    """The items that the challenger was trained on or that an arm's prompt shows, with where they were found.

    Such items are left out: to answer them shows nothing. System messages make no difference.
    """
    shown = {f"the prompt of “{arm.name}”": _examples(arm.prompt) for arm in comparison.arms}
    sources = {"the training file": comparison.training} | shown
    return {
        item: source
        for source, known in sources.items()
        for item, kind in _leaks(known, comparison.items).items()
        if kind == "exact"
    }


def find_warnings(comparison: Comparison, arms: ArmAnswers, score: str) -> list[EvaluationWarning]:
    """Return the warnings about the items that `arms` answered; `score` is the one that decides."""
    checked = {name: [_checked(comparison, answer) for answer in answers] for name, answers in arms.items()}
    return [*_data_warnings(comparison), *prompt_warnings(comparison), *check_answers(checked, score)]


def _examples(prompt: Chat) -> list[Item]:
    """The examples in a prompt: each assistant's message with the message before it."""
    return [
        Item([before], message["content"])
        for before, message in pairwise(prompt)
        if message["role"] == "assistant" and before["role"] == "user"
    ]


def _leaks(known: Sequence[Item], items: Sequence[Item]) -> dict[int, Literal["exact", "near"]]:
    return find_leaks([_without_system(item) for item in known], [_without_system(item) for item in items])


def _without_system(item: Item) -> Item:
    return Item(item.messages[len(system_messages(item.messages)) :], item.expected)


def _checked(comparison: Comparison, answer: ScoredAnswer) -> CheckedAnswer:
    expected = comparison.items[answer.item].expected
    is_truncated = answer.finish_reason == "length"
    return CheckedAnswer(answer.item, answer.text, expected, answer.scores, is_truncated)


def _data_warnings(comparison: Comparison) -> list[EvaluationWarning]:
    leaked = leaked_items(comparison)
    near = [item for item, kind in _leaks(comparison.training, comparison.items).items() if kind == "near"]
    contradictory = [item for group in find_contradictions(comparison.items) for item in group]
    found: list[tuple[WarningCode, Sequence[int], str]] = [
        ("leak", [*leaked], f"are in {' and in '.join(dict.fromkeys(leaked.values()))}, and are left out"),
        ("near_leak", near, "are nearly the same as one of the training file"),
        ("contradiction", contradictory, "have the same question as another one, and a different answer"),
    ]
    count = len(comparison.items)
    return [
        EvaluationWarning(code=code, message=f"{len(items)} of {count} items {what}", items=tuple(sorted(items)))
        for code, items, what in found
        if items
    ]
