"""Conversations in OpenAI's chat fine-tuning format, and the checks that each must pass."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from loramux_adapters.finetuning.datasets.ignored_keys import KeyFilter, without_nulls
from loramux_adapters.finetuning.datasets.lines import OtherFormat, parse_object
from loramux_adapters.finetuning.datasets.messages import CalledFunction, Message, ToolCall
from loramux_adapters.finetuning.datasets.other_formats.refusal import refuse_other_formats
from loramux_adapters.finetuning.datasets.tools import Tools

PREFERENCE_KEYS = ("preferred_output", "non_preferred_output")
_LINE_KEYS = ("messages", "tools", "parallel_tool_calls")
_MESSAGE_KEYS = (*Message.model_fields, "function_call", "refusal", "audio")
_PART_KEYS = ("type", "text", "refusal", "image_url", "input_audio", "file")
_PREFERENCE = (
    "it is a preference pair, for the method dpo (of a job: method.type; of `loramux train`: `method: dpo` in the "
    "recipe); supervised training takes `messages`"
)


_NO_ANSWER = (
    "the last message must be the assistant's, the answer to learn; files for reinforcement fine-tuning have none, and "
    "can't be used"
)


class Conversation(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: tuple[Message, ...]
    tools: Tools = ()
    parallel_tool_calls: bool = True
    """Not rendered by any chat template: vLLM cuts answers after the first call where a request says false."""
    line: int = 0
    """The number of the line in its file; the first is 1."""
    ignored_keys: frozenset[str] = frozenset()

    @property
    def chat_tools(self) -> list[dict[str, Any]]:
        """The tools of the request in OpenAI's form; empty if it has none."""
        return [tool.to_chat() for tool in self.tools]

    @model_validator(mode="after")
    def _check_messages(self) -> Self:
        check_prompt(self.messages)
        if self.messages[-1].role != "assistant":
            raise ValueError(_NO_ANSWER)
        if not any(message.is_trained_on for message in self.messages):
            raise ValueError("there is no assistant message to train on: all have the weight 0")
        return self


def check_prompt(messages: tuple[Message, ...]) -> None:
    """Check the messages of a conversation, or of a prompt.

    Raises:
        ValueError: there is no user message, or a tool's result that no message before it called for.
    """
    if not any(message.role == "user" for message in messages):
        raise ValueError("there is no user message")
    called: set[str] = set()
    for position, message in enumerate(messages):
        called.update(call.id for call in message.tool_calls)
        if message.tool_call_id is not None and message.tool_call_id not in called:
            raise ValueError(f"messages.{position}.tool_call_id: no tool call before it has this id")


def parse_conversation(line: bytes, number: int = 0) -> Conversation:
    """Parse line `number` of a training file.

    Raises:
        ValueError: it is not a valid conversation.
    """
    document = without_nulls(parse_object(line))
    if any(key in document for key in PREFERENCE_KEYS):
        raise OtherFormat(_PREFERENCE)
    refuse_other_formats(document)
    keys = KeyFilter()
    kept = keep_known(document, keys)
    if "messages" not in kept:
        raise ValueError('there are no messages; expected {"messages": [...]}, one conversation per line')
    return Conversation.model_validate(kept | {"line": number, "ignored_keys": frozenset(keys.ignored)})


def keep_known(document: dict[str, Any], keys: KeyFilter, where: str = "") -> dict[str, Any]:
    """Return the keys of a line, its tools and messages that have a meaning, without null values.

    Raises:
        ValueError: messages or tools are no lists.
    """
    kept: dict[str, Any] = keys.keep(document, _LINE_KEYS, where)
    if "messages" in kept:
        kept["messages"] = keep_known_of_messages(kept["messages"], keys, f"{where}messages.")
    if "tools" in kept:
        kept["tools"] = [_without_nulls_of_tool(tool) for tool in _list(kept["tools"], f"{where}tools")]
    return kept


def keep_known_of_messages(messages: Any, keys: KeyFilter, where: str) -> list[Any]:
    """Return the keys of messages, their parts and tool calls that have a meaning, without null values.

    Raises:
        ValueError: it is no list.
    """
    kept = keys.keep_each(_list(messages, where.rstrip(".")), _MESSAGE_KEYS, where)
    for message in kept:
        if isinstance(message, dict):
            _clean_message(message, keys, where)
    return kept


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list")
    return value


def _clean_message(message: dict[str, Any], keys: KeyFilter, where: str) -> None:
    if isinstance(message.get("content"), list):
        message["content"] = keys.keep_each(message["content"], _PART_KEYS, f"{where}content.")
    if isinstance(message.get("tool_calls"), list):
        calls = keys.keep_each(message["tool_calls"], ToolCall.model_fields, f"{where}tool_calls.")
        for call in calls:
            if isinstance(call, dict) and "function" in call:
                call["function"] = keys.keep(call["function"], CalledFunction.model_fields, f"{where}tool_calls.")
        message["tool_calls"] = calls


def _without_nulls_of_tool(tool: Any) -> Any:
    """Drop null values of a tool and its function; within its JSON schema null has a meaning."""
    if not isinstance(tool, dict):
        return tool
    kept = without_nulls(tool)
    if isinstance(kept.get("function"), dict):
        kept["function"] = without_nulls(kept["function"])
    return kept
