"""The training file: OpenAI's chat fine-tuning format, one conversation a line, checked before anything is trained."""

from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loramux_adapters.finetuning.errors import InvalidDataset

LONGEST_LINE = 1 << 20  # bytes; a base's whole context is far below this
PROBLEMS_SHOWN = 10

_OTHER_FORMATS = {
    b"\x1f\x8b": "it is compressed with gzip",
    b"PK": "it is a ZIP archive",
    b"PAR1": "it is a Parquet file",
    b"\xff\xfe": "it is in UTF-16, and must be in UTF-8",
    b"\xfe\xff": "it is in UTF-16, and must be in UTF-8",
    b"\xef\xbb\xbf": "it begins with a byte order mark: save it as UTF-8 without one",
    b"[": "it is one JSON list: write each conversation on a line of its own",
}
_OTHER_LINES = {
    "prompt": "a completion, not a conversation: write `messages`",
    "input": "a preference (DPO) or reinforcement example, and only supervised training is done here: write `messages`",
    "contents": "another vendor's format: write `messages`",
    "conversations": "another format (ShareGPT): write `messages`",
}
"""What a line without `messages` may be, by a key that it has."""
_TOOLS = ("tools", "functions", "parallel_tool_calls")
_CALLS = ("tool_calls", "function_call")
_BESIDE_CONTENT = (*_CALLS, "refusal", "audio", "annotations")
"""What OpenAI's client writes of every message (`message.model_dump()`), null or empty where there is nothing."""


class Message(BaseModel):
    """One message. `weight` 0 keeps an assistant's message as context that is not learned from.

    `name`, which tells several users apart, is ignored: few chat templates would show it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]
    name: str | None = None
    weight: Literal[0, 1] | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_words_only(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        for key in _CALLS:
            if message.get(key):
                raise ValueError(f"{key}: calls of tools can't be trained here: write the call as the content")
        if message.get("role") in {"tool", "function", "developer"}:
            raise ValueError("role: must be system, user or assistant")
        return _without_empty(message, _BESIDE_CONTENT)

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """Take OpenAI's list of parts as the text that it is; images and sounds are refused."""
        if not isinstance(content, list):
            return content
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ValueError("a part is not text, and nothing else can be trained here")
        if not all(isinstance(part.get("text"), str) for part in content):
            raise ValueError("the `text` of a part must be a string")
        return "".join(part["text"] for part in content)

    @model_validator(mode="after")
    def _weighs_answers_only(self) -> Self:
        if self.weight is not None and self.role != "assistant":
            raise ValueError("weight: only the assistant's messages have one")
        return self

    @property
    def is_learned(self) -> bool:
        """Whether the adapter is to learn to say this."""
        return self.role == "assistant" and self.weight != 0

    def as_chat(self) -> dict[str, str]:
        """The message as a chat template takes it."""
        return {"role": self.role, "content": self.content}


class Conversation(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: tuple[Message, ...]

    @model_validator(mode="before")
    @classmethod
    def _is_a_conversation(cls, line: Any) -> Any:
        if not isinstance(line, dict):
            return line
        for key, meaning in _OTHER_LINES.items():
            if "messages" not in line and key in line:
                raise ValueError(f"it is {meaning}")
        if any(line.get(key) for key in _TOOLS):
            raise ValueError("tools: calls of tools can't be trained here: leave them out")
        return _without_empty(line, _TOOLS)

    @model_validator(mode="after")
    def _has_an_answer_to_learn(self) -> Self:
        if any(message.role == "system" for message in self.messages[1:]):
            raise ValueError("a system message must be the first one")
        if not any(message.role == "user" for message in self.messages):
            raise ValueError("there is no user message")
        if self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's")
        if not any(message.is_learned for message in self.messages):
            raise ValueError("there is no assistant message to learn from")
        return self


def _without_empty(given: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value or key not in keys}


class Row(TypedDict):
    """One training example as TRL takes it: the loss is on the completion only."""

    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]


def read_dataset(path: Path) -> list[Conversation]:
    """Read and check the whole file.

    Raises InvalidDataset with the first problems and their line numbers, and OSError when the file can't be read.
    """
    return list(conversations(path))


def conversations(path: Path) -> Iterator[Conversation]:
    """Yield the conversations of a file of any size; raises as `read_dataset` does, as soon as it is found out.

    What was yielded before is of no use then.
    """
    problems: list[tuple[int, str]] = []
    found = 0
    with path.open("rb") as file:
        _refuse_other_formats(path.name, file.peek(8)[:8])
        for number in count(1):
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                break
            try:
                conversation = parse(line)
            except ValueError as error:
                problems.append((number, _reason(error)))
                # What follows an overlong line is its own rest, not the next one.
                if len(problems) == PROBLEMS_SHOWN or len(line) > LONGEST_LINE:
                    break
                continue
            found += 1
            if not problems:
                yield conversation
    if not found and not problems:
        problems.append((1, "the file is empty"))
    if problems:
        raise InvalidDataset(path.name, problems)


def _refuse_other_formats(name: str, start: bytes) -> None:
    for magic, meaning in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise InvalidDataset(name, [(1, meaning)])


def rows(chats: list[Conversation]) -> list[Row]:
    """One row for each assistant message to learn from, with all that was said before it as the prompt."""
    return [row for conversation in chats for row in reversed([*rows_of(conversation)])]


def rows_of(conversation: Conversation) -> Iterator[Row]:
    """Yield the rows of one conversation, the longest first.

    A line of 1 MiB can have thousands of answers: whoever refuses the longest row never makes the others, and those
    that are made share the messages.
    """
    said = [message.as_chat() for message in conversation.messages]
    for turn in reversed(range(len(said))):
        if conversation.messages[turn].is_learned:
            yield Row(prompt=said[:turn], completion=[said[turn]])


def parse(line: bytes) -> Conversation:
    """Read one line; raises ValueError."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"longer than {LONGEST_LINE:,} bytes")
    if not line.strip():
        raise ValueError("empty line")
    return Conversation.model_validate_json(line)


def _reason(error: ValueError) -> str:
    """What is wrong and where in the line, without repeating what the user wrote."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
