"""The size of what an answer must match, which is checked before anything parses it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from loramux_server.errors import InvalidRequest
from loramux_server.settings.request_limits import GrammarLimits


def check_size(constraints: Mapping[str, Any], limits: GrammarLimits) -> None:
    """Check the constraints of an answer, by the names of vLLM's `structured_outputs`.

    Raises:
        InvalidRequest: one exceeds a limit; names the field, the limit and its setting.
    """
    for kind, value in constraints.items():
        _check(kind, value, limits)


def _check(kind: str, value: Any, limits: GrammarLimits) -> None:
    if isinstance(value, str):
        _check_bytes(kind, value, limits)
        value = _parsed(value)
    depth, values = _measure(value)
    if depth > limits.max_depth:
        raise _refused(kind, f"is nested more than {limits.max_depth} levels deep", "max_depth")
    if values > limits.max_values:
        raise _refused(kind, f"has more than {limits.max_values} values", "max_values")
    _check_bytes(kind, json.dumps(value), limits)


def _check_bytes(kind: str, text: str, limits: GrammarLimits) -> None:
    if len(text.encode(errors="surrogatepass")) > limits.max_bytes:
        raise _refused(kind, f"is larger than {limits.max_bytes} bytes", "max_bytes")


def _parsed(text: str) -> Any:
    """Return the value of a JSON text; None for a regular expression, a grammar, or invalid JSON, which is told later.

    Nesting that the parser can't follow is left to the grammar process, too.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _measure(value: Any) -> tuple[int, int]:
    """Return the depth of nested lists and objects, and the number of values in them."""
    depth, values, level = 0, 0, [value]
    while level := [item for node in level for item in _items(node)]:
        depth, values = depth + 1, values + len(level)
    return depth, values


def _items(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _refused(kind: str, what: str, setting: str) -> InvalidRequest:
    message = f"What the answer must match ({kind}) {what}, the limit of this server (setting grammars.{setting})."
    return InvalidRequest(message, param=f"structured_outputs.{kind}")
