"""Preference pairs in OpenAI's format: a prompt with a preferred and a non-preferred answer, for DPO."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from loramux_adapters.finetuning.datasets.conversations import (
    PREFERENCE_KEYS,
    check_prompt,
    keep_known,
    keep_known_of_messages,
)
from loramux_adapters.finetuning.datasets.examples import ChatMessage, Tool
from loramux_adapters.finetuning.datasets.ignored_keys import KeyFilter, without_nulls
from loramux_adapters.finetuning.datasets.lines import OtherFormat, iter_lines, parse_object
from loramux_adapters.finetuning.datasets.messages import Message
from loramux_adapters.finetuning.datasets.other_formats.refusal import refuse_other_formats
from loramux_adapters.finetuning.datasets.tools import Tools

_KEYS = ("input", *PREFERENCE_KEYS)
_CONVERSATION = (
    "it is a conversation, not a preference pair: a file has either lines with `messages`, or lines with `input`, "
    "`preferred_output` and `non_preferred_output`"
)


def _check_answer(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if len(messages) != 1 or messages[0].role != "assistant":
        raise ValueError("expected one message of the assistant; what stands before it belongs to input.messages")
    return messages


_Answer = Annotated[tuple[Message, ...], AfterValidator(_check_answer)]


class PreferenceInput(BaseModel):
    """The prompt of a pair, with its tools."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: tuple[Message, ...]
    tools: Tools = ()
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _check_messages(self) -> Self:
        check_prompt(self.messages)
        if self.messages[-1].role == "assistant":
            raise ValueError("the last message is the assistant's: move the answers to the two outputs")
        return self


class PreferencePair(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: PreferenceInput
    preferred_output: _Answer
    non_preferred_output: _Answer
    line: int = 0
    """The number of the line in its file; the first is 1."""
    ignored_keys: frozenset[str] = frozenset()

    @property
    def prompt(self) -> list[ChatMessage]:
        """The messages before the answers."""
        return [message.to_chat() for message in self.input.messages]

    @property
    def tools(self) -> list[Tool]:
        """The tools of the request; empty if it has none."""
        return [tool.to_chat() for tool in self.input.tools]

    @property
    def preferred(self) -> ChatMessage:
        """The answer that is to become more likely."""
        return self.preferred_output[0].to_chat()

    @property
    def rejected(self) -> ChatMessage:
        """The answer that is to become less likely."""
        return self.non_preferred_output[0].to_chat()


def read_preferences(path: Path) -> list[PreferencePair]:
    """Read and validate the whole file.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    return list(iter_preferences(path))


def iter_preferences(path: Path, name: str | None = None) -> Iterator[PreferencePair]:
    """Yield the pairs of a file of any size, which errors call `name`.

    Errors are raised where they are found, after valid pairs were yielded: discard those then.

    Raises:
        InvalidDataset: has the first problems with their line numbers.
        OSError: the file can't be read.
    """
    return iter_lines(path, parse_preference, name)


def parse_preference(line: bytes, number: int = 0) -> PreferencePair:
    """Parse line `number` of a preference file.

    Raises:
        ValueError: it is not a valid pair.
    """
    document = without_nulls(parse_object(line))
    if not is_preference(document):
        if "messages" in document:
            raise OtherFormat(_CONVERSATION)
        refuse_other_formats(document)
    keys = KeyFilter()
    kept: dict[str, Any] = keys.keep(document, _KEYS)
    if isinstance(kept.get("input"), dict):
        kept["input"] = keep_known(kept["input"], keys, "input.")
    for key in PREFERENCE_KEYS:
        if key in kept:
            kept[key] = keep_known_of_messages(kept[key], keys, f"{key}.")
    return PreferencePair.model_validate(kept | {"line": number, "ignored_keys": frozenset(keys.ignored)})


def is_preference(document: dict[str, Any]) -> bool:
    """Return whether the object of a line is meant as a preference pair."""
    return any(key in document for key in PREFERENCE_KEYS)
