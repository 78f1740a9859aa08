"""Questions of an evaluation: held-out items that the training data do not have."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from loramux_adapters.evaluation.duplicates import Leak, find_leaks
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning, WarningCode
from loramux_adapters.evaluation.items import Item
from loramux_adapters.evaluation.prompts import CountTokens

_SPARE_TOKENS = 8


@dataclass(frozen=True)
class Questions:
    """Items to ask, with the token counts of the longest prompt and of the longest answer to allow."""

    items: Sequence[Item]
    max_prompt_tokens: int
    max_answer_tokens: int

    @classmethod
    def of(cls, items: Sequence[Item], count_prompt: CountTokens, count_conversation: CountTokens) -> "Questions":
        """Measure the items; an answer may be a bit longer than the longest expected one."""
        prompts = [count_prompt(item.messages, item.tools) for item in items]
        wholes = [count_conversation(item.conversation, item.tools) for item in items]
        answers = [whole - prompt for whole, prompt in zip(wholes, prompts, strict=True)]
        return cls(items, max(prompts, default=0), max(answers, default=0) + _SPARE_TOKENS)


def select_unseen(
    training: Iterable[Item], held_out: Sequence[Item], max_items: int
) -> tuple[list[int], dict[int, Leak]]:
    """Choose up to `max_items` items at random whose prompts the training data do not have, not even nearly.

    Returns their indices, and the items that were left out, by index.
    """
    leaks = find_leaks(training, held_out)
    unseen = [index for index in range(len(held_out)) if index not in leaks]
    chosen = Random(0).sample(unseen, min(max_items, len(unseen)))  # noqa: S311 - a choice, not a secret
    return chosen, leaks


def leak_warnings(leaks: Mapping[int, Leak], numbers: Sequence[int]) -> list[EvaluationWarning]:
    """Return warnings about held-out items that were left out; `numbers` are the numbers of all, to name them by."""
    warnings = []
    for kind, code, where in _LEAKS:
        items = [numbers[index] for index, found in leaks.items() if found == kind]
        if items:
            message = f"{len(items)} of {len(numbers)} held-out prompts {where}, and were left out"
            warnings.append(EvaluationWarning(code=code, message=message, items=tuple(items)))
    return warnings


_LEAKS: Sequence[tuple[Leak, WarningCode, str]] = (
    ("exact", "leak", "are in the training data too"),
    ("near", "near_leak", "are nearly equal to one in the training data"),
)
