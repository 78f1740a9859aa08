"""What is asked in a trial: questions that nobody learned from, and a prompt that gives the base its best chance."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from loramux_adapters.finetuning.datasets.conversations import Row, conversations, rows
from loramux_adapters.finetuning.datasets.report import ChatTokens

Chat = list[dict[str, str]]

MOST_SHOTS = 50
_MOST_LABELS = 40
"""Answers of so few kinds are listed in the prompt."""
_SPARE_TOKENS = 8
_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Questions:
    """What is asked, and how long an answer may be; `left_out` were in the training file too."""

    rows: Sequence[Row]
    left_out: int
    longest_prompt: int
    most_tokens: int


@dataclass(frozen=True)
class Prompt:
    """Put before a question: what the system's message says more, and examples as earlier turns."""

    instruction: str
    shots: Sequence[Chat]

    def before(self, question: Chat) -> Chat:
        """Return the question with the prompt before it."""
        system, said = _split(question)
        words = _BETWEEN.join(part for part in (system, self.instruction) if part)
        return [*([{"role": "system", "content": words}] if words else []), *chain(*self.shots), *said]


def questions(training: Path, validation: Path, tokens: ChatTokens, most: int) -> Questions:
    """Choose up to `most` answers to ask for; raises InvalidDataset, OSError."""
    known = {_key(row["prompt"]) for row in _rows(training)}
    held_out = _rows(validation)
    fresh = [row for row in held_out if _key(row["prompt"]) not in known]
    chosen = random.Random(0).sample(fresh, min(most, len(fresh)))  # noqa: S311 - a choice, not a secret
    prompts = [tokens.prompt(row["prompt"]) for row in chosen]
    answers = [
        tokens.whole(row["prompt"] + row["completion"]) - prompt for row, prompt in zip(chosen, prompts, strict=True)
    ]
    return Questions(
        rows=chosen,
        left_out=len(held_out) - len(fresh),
        longest_prompt=max(prompts, default=0),
        most_tokens=max(answers, default=0) + _SPARE_TOKENS,
    )


def prompt_with_examples(training: Path, tokens: ChatTokens, room: int) -> Prompt:
    """Make a prompt of at most about `room` tokens: the kinds of answers, if they are few, and one example of each.

    After one of each kind come second ones, as many as have room. Raises InvalidDataset, OSError.
    """
    learned = _rows(training)
    labels = sorted({row["completion"][0]["content"] for row in learned})
    instruction = ""
    if len(labels) <= _MOST_LABELS:
        instruction = "\n- ".join(["Answer with exactly one of these and nothing else:", *labels])
    room -= tokens.whole([{"role": "system", "content": _BETWEEN + instruction}])
    shots: list[Chat] = []
    for row in _spread(learned):
        shot = [*_split(row["prompt"])[1], *row["completion"]]
        room -= tokens.whole(shot)  # with what the template adds to it alone: rather too many than too few
        if room < 0 or len(shots) == MOST_SHOTS:
            break
        shots.append(shot)
    return Prompt(instruction, shots)


def _rows(path: Path) -> list[Row]:
    return rows(list(conversations(path)))


def _spread(learned: Sequence[Row]) -> list[Row]:
    """Order examples so that the first ones have answers as different as can be."""
    shuffled = random.Random(0).sample(learned, len(learned))  # noqa: S311 - an order, not a secret
    by_answer: dict[str, list[Row]] = {}
    for row in shuffled:
        by_answer.setdefault(row["completion"][0]["content"], []).append(row)
    return [row for turn in zip_longest(*by_answer.values()) for row in turn if row is not None]


def _split(chat: Chat) -> tuple[str, Chat]:
    """Return what the system's message says, and what is said after it."""
    has_system = bool(chat) and chat[0]["role"] == "system"
    return (chat[0]["content"], chat[1:]) if has_system else ("", chat)


def _key(chat: Chat) -> str:
    return json.dumps([[message["role"], message["content"]] for message in chat])
