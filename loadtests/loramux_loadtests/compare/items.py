"""Reading held-out items and prompts from files."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from loramux_adapters.evaluation.items import Chat, Item
from loramux_loadtests.compare.errors import ComparisonError

MAX_PROBLEMS = 10


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]


class _ConversationLine(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    messages: Annotated[tuple[Message, ...], Field(min_length=2)]


_PROMPT = TypeAdapter(list[Message])


def read_items(path: Path) -> list[Item]:
    """Read a file in OpenAI's chat fine-tuning format; system messages are left out, as each arm has its own.

    Raises:
        ComparisonError: the file can't be read; the message has the first problems with their line numbers.
    """
    items, problems = [], []
    # Only a line feed ends a line: JSON strings may contain other Unicode line separators.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append(_parse_item(_ConversationLine.model_validate_json(line)))
        except ValueError as error:
            problems.append(f"line {number}: {_first_problem(error)}")
    if problems or not items:
        shown = problems[:MAX_PROBLEMS] or ["it is empty"]
        more = f", and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
        raise ComparisonError(f"{path.name} can't be read: {'; '.join(shown)}{more}")
    return items


def read_prompt(path: Path) -> Chat:
    """Read the messages to put before each question: a JSON list of messages, or a text as the system message.

    Raises:
        ComparisonError: the file can't be read, or is not a list of messages.
    """
    text = _read_text(path)
    if path.suffix != ".json":
        return [{"role": "system", "content": text.strip()}] if text.strip() else []
    try:
        return [message.model_dump() for message in _PROMPT.validate_json(text)]
    except ValidationError as error:
        raise ComparisonError(f"{path.name} must be a JSON list of messages: {_first_problem(error)}") from error


def _parse_item(line: _ConversationLine) -> Item:
    *question, answer = (message for message in line.messages if message.role not in {"system", "developer"})
    if answer.role != "assistant" or not question:
        raise ValueError("the last message must be the assistant's, after a user's")
    return Item([message.model_dump() for message in question], answer.content)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"{path.name} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _first_problem(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first: Any = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
