"""Held-out items: a question with its expected answer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from loramux_adapters.evaluation.calls import answer_message

Chat = list[dict[str, Any]]
"""Messages in OpenAI's form, each with `role` and `content`, which may be None where there are `tool_calls`."""
Tools = Sequence[dict[str, Any]]
"""The tools of a request in OpenAI's form."""


class Item(NamedTuple):
    """A question, as the messages before the answer, and the expected answer; as `answer_text` if it calls tools."""

    messages: Chat
    expected: str
    tools: Tools = ()
    parallel_tool_calls: bool = True
    """As in the request: an answer may have several calls."""

    @property
    def conversation(self) -> Chat:
        """The messages with the expected answer as the last one."""
        return [*self.messages, answer_message(self.expected)]
