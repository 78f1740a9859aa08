"""Questions of an evaluation: held-out items that the training data do not have."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from loramux_adapters.evaluation.duplicates import Leak, find_leaks
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning
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
        prompts = [count_prompt(item.messages) for item in items]
        answers = [count_conversation(item.conversation) - prompt for item, prompt in zip(items, prompts, strict=True)]
        return cls(items, max(prompts, default=0), max(answers, default=0) + _SPARE_TOKENS)


def select_unseen(
    training: Iterable[Item], held_out: Sequence[Item], max_items: int
) -> tuple[list[Item], Counter[Leak]]:
    """Choose up to `max_items` items at random whose prompts the training data do not have, not even nearly.

    Returns them with the numbers of items that were left out, by kind.
    """
    leaks = find_leaks(training, held_out)
    unseen = [item for index, item in enumerate(held_out) if index not in leaks]
    chosen = Random(0).sample(unseen, min(max_items, len(unseen)))  # noqa: S311 - a choice, not a secret
    return chosen, Counter(leaks.values())


def leak_warnings(leaks: Counter[Leak], held_out: int) -> list[EvaluationWarning]:
    """Return warnings about held-out items that were left out; `held_out` is the number of all."""
    where = {"exact": "are in the training data too", "near": "are nearly equal to one in the training data"}
    return [
        EvaluationWarning(
            code="leak" if kind == "exact" else "near_leak",
            message=f"{count} of {held_out} held-out prompts {where[kind]}, and were left out",
        )
        for kind, count in sorted(leaks.items())
    ]
