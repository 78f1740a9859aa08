"""The lines of a file of held-out items: conversations in OpenAI's chat fine-tuning format."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from loramux_adapters.evaluation.content_text import read_content

_TRAINING_ONLY = {"weight"}
"""Keys of a message that say how to train on it, and nothing about how to ask."""
_NOT_SENT = {"audio", "function_call", "refusal"}
"""Keys of a message that are part of what was said, and can't be sent."""
_TEXT_PARTS = {"text", "input_text", "output_text"}


class _Function(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(min_length=1)]
    arguments: str


class _ToolCall(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str
    type: Literal["function"] = "function"
    function: _Function


class _ToolFunction(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    parameters: dict[str, Any] | None = None


class _Tool(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["function"]
    function: _ToolFunction


class Message(BaseModel):
    """One message of a chat, as training files have it. Unknown keys and those that are null or empty are not sent."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: Annotated[str, Field(min_length=1)] | None = None
    tool_calls: tuple[_ToolCall, ...] | None = None
    tool_call_id: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _read_text_parts(cls, content: Any, info: ValidationInfo) -> Any:
        """Read a list of parts as training does: several of a question stay parts."""
        if content is None or isinstance(content, str):
            return content
        if not isinstance(content, list) or not content or not all(map(_is_text, content)):
            raise ValueError("expected a text, or a list of parts of type text")
        return read_content([part["text"] for part in content], info.data.get("role"))

    @model_validator(mode="after")
    def _refuse_what_cant_be_sent(self) -> Self:
        if refused := sorted(self.unknown_keys & _NOT_SENT):
            raise ValueError(f"a message with {refused[0]!r} can't be sent: remove that key")
        if not self.content and not self.tool_calls and self.role in {"user", "assistant"}:
            raise ValueError("content: expected a text")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls: allowed only in messages of the assistant")
        if (self.role == "tool") != bool(self.tool_call_id):
            raise ValueError("tool_call_id: expected in messages of the role tool, and in no others")
        return self

    @property
    def unknown_keys(self) -> set[str]:
        """The keys that are not sent and say something."""
        empty: tuple[Any, ...] = (None, [], {}, "")
        return {key for key, value in (self.model_extra or {}).items() if value not in empty} - _TRAINING_ONLY

    def as_sent(self) -> dict[str, Any]:
        """The message as it is sent: `role`, `content` and, where it has them, `name`, `tool_calls`, `tool_call_id`."""
        calls = [call.model_dump() for call in self.tool_calls or ()]
        optional = {"name": self.name, "tool_calls": calls, "tool_call_id": self.tool_call_id}
        content = self.content if calls else self.content or ""
        return {"role": self.role, "content": content} | {key: found for key, found in optional.items() if found}


def _is_text(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind in _TEXT_PARTS and isinstance(part.get("text"), str)


class ConversationLine(BaseModel):
    """One line: a conversation whose last message is the expected answer, and its tools."""

    model_config = ConfigDict(extra="allow", frozen=True)

    messages: Annotated[tuple[Message, ...], Field(min_length=2)]
    tools: tuple[_Tool, ...] | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        *question, answer = self.messages
        if answer.role != "assistant" or not any(message.role == "user" for message in question):
            raise ValueError("the last message must be the assistant's, after a user's")
        return self
