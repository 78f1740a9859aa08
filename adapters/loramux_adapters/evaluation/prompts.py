"""Questions for an evaluation that are not in the training data, and a few-shot prompt for the base."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from loramux_adapters.evaluation.items import Chat, Item

CountTokens = Callable[[Chat], int]

MAX_SHOTS = 50
_MAX_LABELS = 40
"""Up to this many distinct answers are listed in the prompt."""
_SPARE_TOKENS = 8
_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Questions:
    """Held-out items to ask, with the token counts of the longest prompt and of the longest answer to allow.

    `left_out` is the number of items that were dropped because the training data have the same prompt.
    """

    items: Sequence[Item]
    left_out: int
    max_prompt_tokens: int
    max_answer_tokens: int


@dataclass(frozen=True)
class Prompt:
    """What is put before a question: an addition to the system message, and examples as earlier turns."""

    instruction: str
    shots: Sequence[Chat]

    def add_to(self, question: Chat) -> Chat:
        """Return the question with the prompt before it."""
        system, turns = _split_system_message(question)
        content = _SEPARATOR.join(part for part in (system, self.instruction) if part)
        return [*([{"role": "system", "content": content}] if content else []), *chain(*self.shots), *turns]


def select_questions(
    training: Sequence[Item],
    validation: Sequence[Item],
    *,
    count_prompt: CountTokens,
    count_conversation: CountTokens,
    max_questions: int,
) -> Questions:
    """Choose up to `max_questions` validation items whose prompts the training data do not have."""
    known = {_key(item.messages) for item in training}
    unseen = [item for item in validation if _key(item.messages) not in known]
    chosen = random.Random(0).sample(unseen, min(max_questions, len(unseen)))  # noqa: S311 - a choice, not a secret
    prompts = [count_prompt(item.messages) for item in chosen]
    answers = [count_conversation(item.conversation) - prompt for item, prompt in zip(chosen, prompts, strict=True)]
    return Questions(
        items=chosen,
        left_out=len(validation) - len(unseen),
        max_prompt_tokens=max(prompts, default=0),
        max_answer_tokens=max(answers, default=0) + _SPARE_TOKENS,
    )


def few_shot_prompt(training: Sequence[Item], count_conversation: CountTokens, max_tokens: int) -> Prompt:
    """Build a prompt of at most about `max_tokens`: the distinct answers, if they are few, and one example of each.

    Second and further examples of each answer follow, as long as they fit.
    """
    labels = sorted({item.expected for item in training})
    instruction = ""
    if len(labels) <= _MAX_LABELS:
        instruction = "\n- ".join(["Answer with exactly one of these and nothing else:", *labels])
    tokens_left = max_tokens - count_conversation([{"role": "system", "content": _SEPARATOR + instruction}])
    shots: list[Chat] = []
    for item in _diverse_first(training):
        shot = _split_system_message(item.conversation)[1]
        # Counted with what the template adds to each example alone: this overestimates the whole, which is safe.
        tokens_left -= count_conversation(shot)
        if tokens_left < 0 or len(shots) == MAX_SHOTS:
            break
        shots.append(shot)
    return Prompt(instruction, shots)


def _diverse_first(items: Sequence[Item]) -> list[Item]:
    """Order items so that each distinct answer occurs once before any occurs twice."""
    shuffled = random.Random(0).sample(items, len(items))  # noqa: S311 - an order, not a secret
    by_answer: dict[str, list[Item]] = {}
    for item in shuffled:
        by_answer.setdefault(item.expected, []).append(item)
    return [item for group in zip_longest(*by_answer.values()) for item in group if item is not None]


def _split_system_message(chat: Chat) -> tuple[str, Chat]:
    """Return the content of the system message ("" if there is none), and the other messages."""
    has_system = bool(chat) and chat[0]["role"] == "system"
    return (chat[0]["content"], chat[1:]) if has_system else ("", chat)


def _key(chat: Chat) -> str:
    return json.dumps([[message["role"], message["content"]] for message in chat])
