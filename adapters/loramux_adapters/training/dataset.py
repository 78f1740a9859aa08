"""The training file: OpenAI's chat fine-tuning format, one conversation a line, checked before anything is trained."""

from pathlib import Path
from typing import Annotated, Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loramux_adapters.training.errors import InvalidDataset

LONGEST_LINE = 1 << 20  # bytes; a base's whole context is far below this
PROBLEMS_SHOWN = 10


class Message(BaseModel):
    """One message. `weight` 0 keeps an assistant's message as context that is not learned from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]
    weight: Literal[0, 1] | None = None

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


class Row(TypedDict):
    """One training example as TRL takes it: the loss is on the completion only."""

    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]


def read_dataset(path: Path) -> list[Conversation]:
    """Read and check the whole file.

    Raises InvalidDataset with the first problems and their line numbers, and OSError when the file can't be read.
    """
    conversations: list[Conversation] = []
    problems: list[tuple[int, str]] = []
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
            try:
                conversations.append(_parse(line))
            except ValueError as error:
                problems.append((number, _reason(error)))
            # What follows an overlong line is its own rest, not the next one.
            if len(problems) == PROBLEMS_SHOWN or len(line) > LONGEST_LINE:
                break
    if not conversations and not problems:
        problems.append((1, "the file is empty"))
    if problems:
        raise InvalidDataset(path.name, problems)
    return conversations


def rows(conversations: list[Conversation]) -> list[Row]:
    """One row for each assistant message to learn from, with all that was said before it as the prompt."""
    return [
        Row(prompt=[said.as_chat() for said in conversation.messages[:turn]], completion=[message.as_chat()])
        for conversation in conversations
        for turn, message in enumerate(conversation.messages)
        if message.is_learned
    ]


def _parse(line: bytes) -> Conversation:
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
