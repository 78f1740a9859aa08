"""Prompts for the base, made from training data: instructions, and examples in a few numbers."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, zip_longest
from random import Random

from loramux_adapters.evaluation.calls import are_calls, parse_calls
from loramux_adapters.evaluation.content_text import content_text
from loramux_adapters.evaluation.items import Chat, Item, Tools
from loramux_adapters.evaluation.json_objects import parse_json_object
from loramux_adapters.evaluation.scorers.automatic import are_short, find_labels

CountTokens = Callable[[Chat, Tools], int]
"""Count the tokens of messages with the tools of their request."""

BARE = "base"
SHOT_COUNTS = (4, 16, 50)
"""Numbers of examples of the prompts to choose from; of the last one, as many as fit."""
_CALL = "Answer with a call of one of the tools and nothing else."
_ALONE = "Answer with nothing but the answer itself: no other words, and no markup."
_COMMON = 0.5
"""Share of training examples in which a system message or a JSON key must occur to be part of a prompt."""
_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Prompt:
    """What is put before a question: additions to the system message, and examples as earlier turns.

    `system` is for questions without a system message, `instruction` is added to either. Without `has_system_role`, the
    first user message begins with both.
    """

    name: str
    instruction: str = ""
    shots: Sequence[Chat] = ()
    system: str = ""
    has_system_role: bool = True

    def add_to(self, question: Chat) -> Chat:
        """Return the question with the prompt before it."""
        if not (self.instruction or self.shots or self.system):
            return question
        system, turns = _split_system_message(question)
        content = _SEPARATOR.join(part for part in (system or self.system, self.instruction) if part)
        messages = [*chain(*self.shots), *turns]
        if not content:
            return messages
        if self.has_system_role:
            return [{"role": "system", "content": content}, *messages]
        first, *others = messages
        return [first | {"content": f"{content}{_SEPARATOR}{first['content'] or ''}"}, *others]


def candidate_prompts(
    training: Sequence[Item],
    count_conversation: CountTokens,
    max_tokens: int,
    *,
    rng: Random,
    has_system_role: bool = True,
) -> list[Prompt]:
    """Build prompts of at most about `max_tokens`, the smallest first: none, instructions, and with examples.

    The instructions are the data's own system message, and what its answers must look like, if that can be said:
    their labels, or the keys of their JSON objects. Each distinct answer is an example once before any is twice.
    `has_system_role` is whether the base's chat template has a place for system messages.
    """
    system = _common_system_message(training)
    instruction = _instruction([item.expected for item in training])
    prompts = [Prompt(BARE)]
    role = "system" if has_system_role else "user"
    left = max_tokens - count_conversation([{"role": role, "content": _SEPARATOR.join([system, instruction])}], ())
    if left < 0:
        return prompts
    if instruction or (system and not all(_split_system_message(item.messages)[0] for item in training)):
        prompts.append(Prompt(f"{BARE} with instructions", instruction, (), system, has_system_role))
    shots = _fitting_shots(training, count_conversation, left, rng)
    for count in sorted({min(count, len(shots)) for count in SHOT_COUNTS} - {0}):
        examples = f"{count} example{'s' if count > 1 else ''}"
        name = f"{BARE} with {examples} in its prompt"
        prompts.append(Prompt(name, instruction, shots[:count], system, has_system_role))
    return prompts


def _fitting_shots(training: Sequence[Item], count: CountTokens, max_tokens: int, rng: Random) -> list[Chat]:
    chosen = _diverse_first(training, rng)[: SHOT_COUNTS[-1]]
    shots = [_split_system_message(item.conversation)[1] for item in chosen]
    # Counted with what the template adds to each example alone: this overestimates the whole, which is safe.
    lengths = [
        count(shot, item.tools) - _tools_length(count, item.tools) for shot, item in zip(shots, chosen, strict=True)
    ]
    return [shot for shot, total in zip(shots, accumulate(lengths), strict=True) if total <= max_tokens]


def _tools_length(count: CountTokens, tools: Tools) -> int:
    """Return the number of tokens of tools, which are in a prompt once."""
    question = [{"role": "user", "content": "?"}]
    return count(question, tools) - count(question, ()) if tools else 0


def _common_system_message(training: Sequence[Item]) -> str:
    counts = Counter(_split_system_message(item.messages)[0] for item in training)
    message, count = max(counts.items(), key=lambda pair: pair[1], default=("", 0))
    return message if count >= _COMMON * len(training) else ""


def _instruction(answers: Sequence[str]) -> str:
    if are_calls(answers, share=1.0):
        return _CALL
    if labels := find_labels(answers):
        return "\n- ".join(["Answer with exactly one of these and nothing else:", *labels])
    objects = [parse_json_object(answer) for answer in answers]
    if not objects or None in objects:
        return _ALONE if are_short(answers) else ""
    counts = Counter(key for found in objects for key in found or {})
    keys = [json.dumps(key, ensure_ascii=False) for key, count in counts.items() if count >= _COMMON * len(objects)]
    having = f" that has the keys {', '.join(keys)}" if keys else ""
    return f"Answer with one JSON object{having}, and nothing else."


def _diverse_first(items: Sequence[Item], rng: Random) -> list[Item]:
    """Order items so that each distinct answer, or called tool, occurs once before any occurs twice."""
    by_answer: dict[str | tuple[str, ...], list[Item]] = {}
    for item in rng.sample(items, len(items)):
        called = tuple(call.name for call in parse_calls(item.expected) or ())
        by_answer.setdefault(called or item.expected, []).append(item)
    return [item for group in zip_longest(*by_answer.values()) for item in group if item is not None]


def _split_system_message(chat: Chat) -> tuple[str, Chat]:
    """Return the content of the system message ("" if there is none), and the other messages."""
    has_system = bool(chat) and chat[0]["role"] in {"system", "developer"}
    return (content_text(chat[0]["content"]), chat[1:]) if has_system else ("", chat)
