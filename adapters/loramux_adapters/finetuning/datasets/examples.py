"""Training examples: one per answer of a conversation, in TRL's format."""

from collections.abc import Iterator
from typing import Any, TypedDict

from loramux_adapters.finetuning.datasets.conversations import Conversation

ChatMessage = dict[str, Any]
"""A message in OpenAI's form: `role`, `content` (str or None), and where it has them `name`, `tool_call_id` and
`tool_calls`, each {"id": str, "type": "function", "function": {"name": str, "arguments": JSON text of an object}}."""
Tool = dict[str, Any]
"""A tool in OpenAI's form: {"type": "function", "function": {"name": str, ...}}."""


class Example(TypedDict):
    """One training example in TRL's format: the loss is computed on the completion only."""

    prompt: list[ChatMessage]
    completion: list[ChatMessage]
    """One message of the assistant."""
    tools: list[Tool]
    """The tools of the request; empty if it has none."""
    parallel_tool_calls: bool


def examples_of(conversations: list[Conversation]) -> list[Example]:
    """Return one example per assistant message to train on, with all messages before it as the prompt."""
    return [example for conversation in conversations for example in reversed([*iter_examples(conversation)])]


def iter_examples(conversation: Conversation) -> Iterator[Example]:
    """Yield the examples of one conversation, longest first.

    A line of 1 MiB can have thousands of answers: a caller that refuses the longest example never creates the others,
    and all examples share the messages and tools.
    """
    messages: list[ChatMessage] = [message.to_chat() for message in conversation.messages]
    tools: list[Tool] = conversation.chat_tools
    for position in reversed(range(len(messages))):
        if conversation.messages[position].is_trained_on:
            yield Example(
                prompt=messages[:position],
                completion=[messages[position]],
                tools=tools,
                parallel_tool_calls=conversation.parallel_tool_calls,
            )
