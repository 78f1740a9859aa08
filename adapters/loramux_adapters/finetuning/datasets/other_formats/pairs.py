"""Questions with one answer: `prompt` and `completion`, Alpaca's `instruction`, `input` and `output`, and the like."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

from loramux_adapters.finetuning.datasets.other_formats.chat import to_messages

QUESTION_KEYS = ("instruction", "prompt", "question", "query", "input_text", "input", "text")
ANSWER_KEYS = ("output", "completion", "response", "answer", "output_text", "ideal", "label")
CONTEXT_KEYS = ("input", "context")
"""What a question or an instruction refers to."""
SYSTEM_KEYS = ("system", "system_prompt")


def question_key(document: Mapping[str, Any]) -> str | None:
    """Return the key of the question, if it is one."""
    return next((key for key in QUESTION_KEYS if isinstance(document.get(key), (str, list))), None)


def answer_key(document: Mapping[str, Any]) -> str | None:
    """Return the key of the answer, if there is one besides the question."""
    return next((key for key in ANSWER_KEYS if isinstance(document.get(key), (str, list))), None)


def prompt_messages(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages before the answer: system prompt, history, and the question with what it refers to.

    Raises:
        ValueError: there is no question.
    """
    key = question_key(document)
    if key is None:
        raise ValueError(f"there is no question; expected one of the keys {', '.join(QUESTION_KEYS)}")
    system = [{"role": "system", "content": document[key]} for key in SYSTEM_KEYS if document.get(key)]
    history = document.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise ValueError("history: expected a list of pairs of question and answer")
    texts = [text for turn in history for text in turn]
    turns = [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), texts, strict=False)]
    return to_messages([*system, *turns, *_question(document, key)])


def to_conversation(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line as a conversation.

    Raises:
        ValueError: question or answer can't be converted.
    """
    answer = answer_messages(document[answer_key(document) or ""])
    return {"messages": [*prompt_messages(document), *answer]}


def answer_messages(answer: Any) -> list[dict[str, Any]]:
    """Return an answer, a text or messages, as messages. The spaces around a text, which old formats need, are removed.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer.strip()}]
    return to_messages([answer] if isinstance(answer, dict) else answer)


def _question(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    question = document[key]
    if not isinstance(question, str):
        return list(question)
    context = [document[name] for name in CONTEXT_KEYS if name != key and document.get(name)]
    if not all(isinstance(text, str) for text in context):
        raise ValueError(f"{key} and what it refers to: expected texts")
    return [{"role": "user", "content": "\n".join([question.strip(), *context])}]
