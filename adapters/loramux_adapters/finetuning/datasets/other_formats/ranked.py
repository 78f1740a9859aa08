"""Two ranked answers to one prompt (`chosen` and `rejected`) as a preference pair in OpenAI's form."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from loramux_adapters.finetuning.datasets.other_formats.chat import read_tools, to_messages
from loramux_adapters.finetuning.datasets.other_formats.pairs import answer_messages, prompt_messages

CHOSEN, REJECTED = "chosen", "rejected"


def to_preference(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line as a preference pair.

    The prompt stands apart, or is what both answers begin with, as in TRL's data sets.

    Raises:
        ValueError: prompt or answers can't be converted.
    """
    chosen, rejected = answer_messages(document[CHOSEN]), answer_messages(document[REJECTED])
    chat = next((document[key] for key in ("conversations", "messages") if document.get(key)), None)
    if chat is not None:
        prompt = to_messages(chat)
    elif "prompt" in document or "instruction" in document or "question" in document:
        prompt = prompt_messages(document)
    else:
        shared = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
        prompt = [message for message, _ in shared]
    chosen, rejected = _without(prompt, chosen), _without(prompt, rejected)
    return {
        "input": {"messages": prompt} | read_tools(document),
        "preferred_output": chosen,
        "non_preferred_output": rejected,
    }


def _without(prompt: list[dict[str, Any]], answer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return an answer without the prompt, if it begins with it."""
    return answer[len(prompt) :] if prompt and answer[: len(prompt)] == prompt else answer
