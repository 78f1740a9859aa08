"""Training files: OpenAI's chat fine-tuning format, one conversation per line, validated before training."""

from collections.abc import Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loramux_adapters.finetuning.errors import InvalidDataset

MAX_LINE_BYTES = 1 << 20  # bytes; a base's whole context is far below this
MAX_PROBLEMS = 10

_OTHER_FORMATS = {
    b"\x1f\x8b": "it is compressed with gzip",
    b"PK": "it is a ZIP archive",
    b"PAR1": "it is a Parquet file",
    b"\xff\xfe": "it is in UTF-16, and must be in UTF-8",
    b"\xfe\xff": "it is in UTF-16, and must be in UTF-8",
    b"\xef\xbb\xbf": "it begins with a byte order mark: save it as UTF-8 without one",
    b"[": "it is one JSON list: write one conversation per line",
}
_OTHER_DATASETS = {
    "prompt": "a completion, not a conversation: write `messages`",
    "input": "a preference (DPO) or reinforcement example, but only supervised training is supported: write `messages`",
    "contents": "another vendor's format: write `messages`",
    "conversations": "another format (ShareGPT): write `messages`",
}
"""Formats of a line without `messages`, by a key that it has."""
_TOOL_KEYS = ("tools", "functions", "parallel_tool_calls")
_CALL_KEYS = ("tool_calls", "function_call")
_IGNORED_IF_EMPTY = (*_CALL_KEYS, "refusal", "audio", "annotations")
"""Keys that `message.model_dump()` of OpenAI's client writes for every message, null or empty if unused."""


class Message(BaseModel):
    """One message. An assistant's message of `weight` 0 is context that is not trained on.

    `name`, which distinguishes several users, is ignored: few chat templates render it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]
    name: str | None = None
    weight: Literal[0, 1] | None = None

    @model_validator(mode="before")
    @classmethod
    def _reject_tool_calls(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        for key in _CALL_KEYS:
            if message.get(key):
                raise ValueError(f"{key}: tool calls can't be trained: write the call as the content")
        if message.get("role") in {"tool", "function", "developer"}:
            raise ValueError("role: must be system, user or assistant")
        return _without_empty(message, _IGNORED_IF_EMPTY)

    @field_validator("content", mode="before")
    @classmethod
    def _join_text_parts(cls, content: Any) -> Any:
        """Join OpenAI's list of content parts; images and audio are refused."""
        if not isinstance(content, list):
            return content
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ValueError("a part is not text; only text can be trained")
        if not all(isinstance(part.get("text"), str) for part in content):
            raise ValueError("the `text` of a part must be a string")
        return "".join(part["text"] for part in content)

    @model_validator(mode="after")
    def _check_weight(self) -> Self:
        if self.weight is not None and self.role != "assistant":
            raise ValueError("weight: allowed only in messages of the assistant")
        return self

    @property
    def is_trained_on(self) -> bool:
        """Whether the adapter is trained to generate this message."""
        return self.role == "assistant" and self.weight != 0

    def to_chat(self) -> dict[str, str]:
        """Return the message in the form that chat templates take."""
        return {"role": self.role, "content": self.content}


class Conversation(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: tuple[Message, ...]

    @model_validator(mode="before")
    @classmethod
    def _reject_other_formats(cls, line: Any) -> Any:
        if not isinstance(line, dict):
            return line
        for key, meaning in _OTHER_DATASETS.items():
            if "messages" not in line and key in line:
                raise ValueError(f"it is {meaning}")
        if any(line.get(key) for key in _TOOL_KEYS):
            raise ValueError("tools: tool calls can't be trained: leave the tools out")
        return _without_empty(line, _TOOL_KEYS)

    @model_validator(mode="after")
    def _check_messages(self) -> Self:
        if any(message.role == "system" for message in self.messages[1:]):
            raise ValueError("a system message must be the first one")
        if not any(message.role == "user" for message in self.messages):
            raise ValueError("there is no user message")
        if self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's")
        if not any(message.is_trained_on for message in self.messages):
            raise ValueError("there is no assistant message to train on")
        return self


def _without_empty(document: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value or key not in keys}


class Example(TypedDict):
    """One training example in TRL's format: the loss is computed on the completion only."""

    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]


def read_dataset(path: Path) -> list[Conversation]:
    """Read and validate the whole file.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    return list(iter_conversations(path))


def iter_conversations(path: Path) -> Iterator[Conversation]:
    """Yield the conversations of a file of any size.

    Errors are raised where they are found, after valid conversations were yielded: discard those then.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    problems: list[tuple[int, str]] = []
    found = 0
    with path.open("rb") as file:
        _refuse_other_formats(path.name, file.peek(8)[:8])
        for number in count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                break
            try:
                conversation = parse_conversation(line)
            except ValueError as error:
                problems.append((number, _describe(error)))
                # An overlong line was read in part: what follows is its rest, not the next line.
                if len(problems) == MAX_PROBLEMS or len(line) > MAX_LINE_BYTES:
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


def examples_of(chats: list[Conversation]) -> list[Example]:
    """Return one example per assistant message to train on, with all messages before it as the prompt."""
    return [example for conversation in chats for example in reversed([*iter_examples(conversation)])]


def iter_examples(conversation: Conversation) -> Iterator[Example]:
    """Yield the examples of one conversation, longest first.

    A line of 1 MiB can have thousands of answers: a caller that refuses the longest example never creates the others,
    and all examples share the messages.
    """
    messages = [message.to_chat() for message in conversation.messages]
    for turn in reversed(range(len(messages))):
        if conversation.messages[turn].is_trained_on:
            yield Example(prompt=messages[:turn], completion=[messages[turn]])


def parse_conversation(line: bytes) -> Conversation:
    """Parse one line of a training file.

    Raises:
        ValueError: it is not a valid conversation.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
    if not line.strip():
        raise ValueError("empty line")
    return Conversation.model_validate_json(line)


def _describe(error: ValueError) -> str:
    """Describe what is wrong and where in the line, without repeating the user's text."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
