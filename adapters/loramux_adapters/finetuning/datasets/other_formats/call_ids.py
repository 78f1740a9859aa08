"""Ids of tool calls, for formats that have none."""

from collections.abc import Mapping
from typing import Any


class CallIds:
    """Numbers the tool calls of one conversation, and finds the call that a result belongs to.

    The ids have nine letters and digits, as Mistral's chat templates demand.
    """

    def __init__(self) -> None:
        self._count = 0
        self._open: dict[str, str] = {}
        """The names of the called functions by the ids of the calls that have no result yet, oldest first."""

    def call(self, name: Any, arguments: Any, given_id: Any = None) -> dict[str, Any]:
        """Return a call in OpenAI's form."""
        self._count += 1
        call_id = given_id or f"call{self._count:05d}"
        self._open[str(call_id)] = str(name)
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments or {}}}

    def result(self, content: str, name: Any = None, given_id: Any = None) -> Mapping[str, Any]:
        """Return the message of a result: of the call with the id, or the oldest open one (of the function).

        Raises:
            ValueError: no call before it is open.
        """
        fitting = [call_id for call_id, called in self._open.items() if name in (None, called)] or [*self._open]
        if given_id is None and not fitting:
            raise ValueError("a tool's result has no tool call before it")
        call_id = given_id or fitting[0]
        self._open.pop(str(call_id), None)
        return {"role": "tool", "tool_call_id": call_id, "content": content}
