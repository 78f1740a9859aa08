"""Two ranked answers to one prompt (`chosen` and `rejected`) as a preference pair in OpenAI's form."""

import re
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from loramux_adapters.finetuning.datasets.other_formats.chat import read_tools, to_messages
from loramux_adapters.finetuning.datasets.other_formats.pairs import (
    SYSTEM_KEYS,
    answer_messages,
    prompt_messages,
    question_key,
)

CHOSEN, REJECTED = "chosen", "rejected"
_TURN = re.compile(r"\n\n(Human|Assistant):")


def to_preference(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line as a preference pair.

    The prompt stands apart, or is what both answers begin with, as in TRL's data sets.

    Raises:
        ValueError: prompt or answers can't be converted.
    """
    chosen, rejected = _messages(document[CHOSEN]), _messages(document[REJECTED])
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(chosen[:-1], rejected[:-1], strict=False))
    prompt = [message for message, _ in shared]
    if prompt:  # whatever else the line has, such as UltraFeedback's `messages`, repeats it
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if prompt[0]["role"] != "system":
            prompt = [*to_messages([{"role": "system", "content": text} for text in _system(document)]), *prompt]
    else:
        prompt = _prompt(document)
    return {
        "input": {"messages": prompt} | read_tools(document),
        "preferred_output": chosen,
        "non_preferred_output": rejected,
    }


def _system(document: Mapping[str, Any]) -> list[str]:
    return [document[key] for key in SYSTEM_KEYS if isinstance(document.get(key), str) and document[key]]


def _prompt(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the prompt that stands apart from the answers; nothing if there is none."""
    chat = next((document[key] for key in ("conversations", "messages") if document.get(key)), None)
    if chat is not None:
        return to_messages(chat)
    return prompt_messages(document) if question_key(document) else []


def _messages(answer: Any) -> list[dict[str, Any]]:
    """Return an answer as messages; a text may be a whole conversation, as in Anthropic's HH-RLHF."""
    if not isinstance(answer, str) or not answer.startswith("\n\nHuman:"):
        return answer_messages(answer)
    turns = _TURN.split(answer)[1:]
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": text.strip()}
        for speaker, text in zip(turns[::2], turns[1::2], strict=True)
    ]
