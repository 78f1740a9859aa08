"""Messages in OpenAI's chat format, as training files have them."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import from_json

from loramux_adapters.evaluation.content_text import read_content
from loramux_adapters.finetuning.datasets.lines import CONVERT

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_OF_PART = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The types of parts that vLLM renders as text, and the key that has it."""


class CalledFunction(BaseModel):
    """The function of a call: its name, and the JSON text of an object of arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    arguments: str = "{}"

    @field_validator("arguments", mode="before")
    @classmethod
    def _check_arguments(cls, arguments: Any) -> Any:
        if isinstance(arguments, dict):
            return json.dumps(arguments, ensure_ascii=False)
        if not isinstance(arguments, str):
            raise ValueError("expected the JSON text of an object")
        try:
            parsed = from_json(arguments or "{}", allow_inf_nan=False)
        except ValueError as error:
            raise ValueError(f"expected the JSON text of an object: {error}") from error
        if not isinstance(parsed, dict):
            raise ValueError('expected the JSON text of an object, such as {"city": "Oslo"}')
        return arguments or "{}"


class ToolCall(BaseModel):
    """A call of a tool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One message. An assistant's message of `weight` 0 is context that is not trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] = ""
    """The text; or several parts in OpenAI's form, which some templates write in another way than one text."""
    name: str | None = None
    weight: Literal[0, 1] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_text(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            raise ValueError("expected an object with role and content")
        if message.get("function_call") or message.get("role") == "function":
            raise ValueError(f"function_call: the older form of tool_calls: {CONVERT}")
        if message.get("refusal"):
            raise ValueError("refusal: write its text as the content, if the adapter is to refuse")
        if message.get("audio"):
            raise ValueError("audio: only text can be trained; write what was said as the content")
        return {key: value for key, value in message.items() if key not in {"function_call", "refusal", "audio"}}

    @field_validator("content", mode="before")
    @classmethod
    def _read_text_parts(cls, content: Any, info: ValidationInfo) -> Any:
        """Read OpenAI's list of content parts; images and audio are refused."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise ValueError("expected a text, or a list of parts of type text")
        return read_content([_text_of_part(part) for part in content], info.data.get("role"))

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.role != "assistant":
            if self.weight is not None:
                raise ValueError("weight: allowed only in messages of the assistant")
            if self.tool_calls:
                raise ValueError("tool_calls: allowed only in messages of the assistant")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("tool_call_id: expected in messages of the role tool, and in no others")
        if not self.content and self.role == "user":
            raise ValueError("content: the user's message is empty; write what is asked, or leave the line out")
        if not self.content and self.role == "assistant" and not self.tool_calls:
            raise ValueError("content: the assistant's message is empty; expected text or tool_calls")
        return self

    @property
    def is_trained_on(self) -> bool:
        """Whether the adapter is trained to generate this message."""
        return self.role == "assistant" and self.weight != 0

    def to_chat(self) -> dict[str, Any]:
        """Return the message in OpenAI's form: `role`, `content`, and what it has of the other keys but `weight`.

        The content of a message that only calls tools is None.
        """
        chat: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            chat["content"] = self.content or None
            chat["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        optional = {"name": self.name, "tool_call_id": self.tool_call_id}
        return chat | {key: value for key, value in optional.items() if value is not None}


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):  # vLLM takes it for text
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    key = _TEXT_OF_PART.get(kind) if isinstance(kind, str) else None
    if key is None:
        expected = ", ".join(sorted(_TEXT_OF_PART))
        raise ValueError(f"a part is not text; expected the types {expected}: leave images and audio out")
    text = part.get(key)
    if not isinstance(text, str):
        raise ValueError(f"the `{key}` of a part must be a string")
    return text
