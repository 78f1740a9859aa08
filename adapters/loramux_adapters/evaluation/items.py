"""Held-out items: a question with its expected answer."""

from typing import NamedTuple

Chat = list[dict[str, str]]
"""Messages as OpenAI's API takes them, each with `role` and `content`."""


class Item(NamedTuple):
    """A question, as the messages before the answer, and the expected answer."""

    messages: Chat
    expected: str

    @property
    def conversation(self) -> Chat:
        """The messages with the expected answer as the last one."""
        return [*self.messages, {"role": "assistant", "content": self.expected}]
