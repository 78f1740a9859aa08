"""Held-out questions with their right answers, and the prompts that go before them."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from loramux_loadtests.compare.errors import ComparisonError

PROBLEMS_SHOWN = 10


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    messages: Annotated[tuple[Message, ...], Field(min_length=2)]


Chat = list[dict[str, str]]
_PROMPT = TypeAdapter(list[Message])


class Item(NamedTuple):
    """One question with its right answer; whatever system message it came with is left to the arms."""

    messages: Chat
    expected: str


def read_items(path: Path) -> list[Item]:
    """Read a file of OpenAI's chat fine-tuning format; raises ComparisonError with the first problems' line numbers."""
    items, problems = [], []
    # Only a line feed ends a line: JSON may hold what Unicode has for that, too.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append(_item(_Line.model_validate_json(line)))
        except ValueError as error:
            problems.append(f"line {number}: {_reason(error)}")
    if problems or not items:
        shown = problems[:PROBLEMS_SHOWN] or ["it is empty"]
        more = f", and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        raise ComparisonError(f"{path.name} can't be read: {'; '.join(shown)}{more}")
    return items


def read_prompt(path: Path) -> Chat:
    """Read what goes before each question: a JSON list of messages, or a text that is the system's message.

    Raises ComparisonError.
    """
    text = _text(path)
    if path.suffix != ".json":
        return [{"role": "system", "content": text.strip()}] if text.strip() else []
    try:
        return [message.model_dump() for message in _PROMPT.validate_json(text)]
    except ValidationError as error:
        raise ComparisonError(f"{path.name} is no list of messages: {_reason(error)}") from error


def _item(line: _Line) -> Item:
    *said, answer = (message for message in line.messages if message.role not in {"system", "developer"})
    if answer.role != "assistant" or not said:
        raise ValueError("the last message must be the assistant's, after a user's")
    return Item([message.model_dump() for message in said], answer.content)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"{path.name} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first: Any = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
