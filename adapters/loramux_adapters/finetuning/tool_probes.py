"""Probes of a chat template: whether it shows tools, calls and their results to the model, or leaves them out."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from loramux_adapters.finetuning.template_messages import Messages, Tools

_NAME, _ARGUMENT, _RESULT = "probe_tool_4f1c", "probe_value_a93e", "probe_result_7d20"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": _NAME, "parameters": {"type": "object", "properties": {}}},
}
_CALL: dict[str, Any] = {
    "id": "probe1234",  # Mistral's templates take ids of nine characters only
    "type": "function",
    "function": {"name": _NAME, "arguments": f'{{"value": "{_ARGUMENT}"}}'},
}
_QUESTION: dict[str, Any] = {"role": "user", "content": "Which?"}
_CALLING: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_RETURNED: dict[str, Any] = {"role": "tool", "tool_call_id": _CALL["id"], "content": _RESULT}
_WAY_OUT = (
    "set LORAMUX_ENGINE__CHAT_TEMPLATE to a template that does: a file, or `chatml-tools`, which adds tools to a "
    "base's own template in ChatML's form (<|im_start|>)"
)


class ToolProbe(NamedTuple):
    """A short conversation, and what has to be found in its rendering."""

    has_tools: bool
    has_calls: bool

    def is_shown(self, render: Callable[[Messages, Tools], str]) -> bool:
        """Whether the template writes all of it; also if it refuses the probe, and so says itself what is wrong."""
        messages = [_QUESTION, _CALLING, _RETURNED] if self.has_calls else [_QUESTION]
        try:
            text = render(messages, [_TOOL] if self.has_tools else [])
        except Exception:  # noqa: BLE001 - a template can raise any
            return True
        return all(marker in text for marker in ((_NAME, _ARGUMENT, _RESULT) if self.has_calls else (_NAME,)))

    @property
    def refusal(self) -> str:
        """Why a conversation that needs this can't be trained, and the way out."""
        if not self.has_calls:
            return f"the base's chat template does not show tools to the model, so calls can't be learned: {_WAY_OUT}"
        if not self.has_tools:
            return (
                "the base's chat template leaves out calls and their results where no tools are given: add the line's "
                "`tools`"
            )
        return f"the base's chat template leaves out the calls of tools or their results: {_WAY_OUT}"


def required_probes(messages: Messages, tools: Tools) -> Iterator[ToolProbe]:
    """Yield what a template must show for these messages."""
    if tools:
        yield ToolProbe(has_tools=True, has_calls=False)
    if any(message["role"] == "tool" or message.get("tool_calls") for message in messages):
        yield ToolProbe(has_tools=bool(tools), has_calls=True)
