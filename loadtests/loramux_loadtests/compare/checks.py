"""Warnings of a comparison: what makes its verdict doubtful, from data, prompts, answers and scores."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from loramux_adapters.evaluation.answer_checks import check_answers
from loramux_adapters.evaluation.calls import answer_text
from loramux_adapters.evaluation.duplicates import find_contradictions, find_leaks
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning, WarningCode
from loramux_adapters.evaluation.items import Chat, Item
from loramux_loadtests.compare.arms import ArmAnswers
from loramux_loadtests.compare.items import system_messages
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.prompt_checks import prompt_warnings
from loramux_loadtests.compare.relative import checked_answers


class Leak(NamedTuple):
    """Where an item was found that no arm should know: exactly, or nearly."""

    source: str
    kind: Literal["exact", "near"]


def leaked_items(comparison: Comparison) -> dict[int, Leak]:
    """The items that the challenger was trained on or that an arm's prompt shows; an exact one comes before a near one.

    Such items are left out: to answer them shows nothing. System messages make no difference.
    """
    shown = {f"the prompt of “{arm.name}”": _examples(arm.prompt) for arm in comparison.arms}
    found: dict[int, Leak] = {}
    for source, known in ({"the training file": comparison.training} | shown).items():
        for item, kind in _leaks(known, comparison.items).items():
            if item not in found or (found[item].kind, kind) == ("near", "exact"):
                found[item] = Leak(source, kind)
    return found


def find_warnings(comparison: Comparison, arms: ArmAnswers, score: str) -> list[EvaluationWarning]:
    """Return the warnings about the items that `arms` answered; `score` is the one that decides."""
    return [
        *_data_warnings(comparison),
        *prompt_warnings(comparison),
        *check_answers(checked_answers(comparison, arms), score),
    ]


def _examples(prompt: Chat) -> list[Item]:
    """The examples in a prompt: each assistant's message with the message before it."""
    return [
        Item([before], answer_text(message))
        for before, message in pairwise(prompt)
        if message["role"] == "assistant" and before["role"] == "user"
    ]


def _leaks(known: Sequence[Item], items: Sequence[Item]) -> dict[int, Literal["exact", "near"]]:
    return find_leaks([_without_system(item) for item in known], [_without_system(item) for item in items])


def _without_system(item: Item) -> Item:
    return item._replace(messages=item.messages[len(system_messages(item.messages)) :])


def _data_warnings(comparison: Comparison) -> list[EvaluationWarning]:
    leaks = leaked_items(comparison)
    exact, near = ([item for item, leak in leaks.items() if leak.kind == kind] for kind in ("exact", "near"))
    contradictory = [item for group in find_contradictions(comparison.items) for item in group]
    found: list[tuple[WarningCode, Sequence[int], str]] = [
        ("leak", exact, f"are in {_sources(leaks, exact)}, and are left out"),
        ("near_leak", near, f"are nearly the same as one in {_sources(leaks, near)}, and are left out"),
        ("contradiction", contradictory, "have the same question as another one, and a different answer"),
    ]
    count = len(comparison.items)
    return [
        EvaluationWarning(code=code, message=f"{len(items)} of {count} items {what}", items=tuple(sorted(items)))
        for code, items, what in found
        if items
    ]


def _sources(leaks: Mapping[int, Leak], items: Sequence[int]) -> str:
    return " and in ".join(dict.fromkeys(leaks[item].source for item in items))
