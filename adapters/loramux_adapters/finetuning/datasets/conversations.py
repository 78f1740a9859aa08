"""Conversations in OpenAI's chat fine-tuning format, and the checks that each must pass."""

from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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

    def to_chat(self) -> dict[str, Any]:
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
