"""Scoring of calls of tools."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
from pydantic import Field

from loramux_adapters.evaluation.calls import Call, parse_calls
from loramux_adapters.evaluation.scorers.base import BaseScorer, Scores

_UNCHECKED = re.compile(r'"(?:patternProperties|unevaluatedProperties|\$dynamicRef)": |"\$ref": "(?!#)')
"""Schemas that would run expressions of strangers, or read another document."""

_CALL_MARK = re.compile(
    r'[<\[][^<>\[\]\s]{0,40}(?:tool|function|python_tag)|\{\s*"(?:name|tool_calls?)"\s*:', re.IGNORECASE
)
"""What calls begin with in the formats of models: a tag that says so, or JSON with the tool's name."""
_MEASURES = ("correct", "arguments", "name", "valid")


def _ignore(*_: object) -> Iterator[jsonschema.ValidationError]:
    return iter(())


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _ignore})

Schemas = dict[str, list[dict[str, Any]]]
"""JSON schemas of a tool's arguments, by its name: several if requests define it differently."""


class CallScorer(BaseScorer):
    """Calls of tools, in any order; where none are expected, any words are right that are no attempt at a call.

    `tools`: without any, all names and arguments are valid.
    """

    type: Literal["calls"]
    tools: Schemas = Field(default={})

    def score(self, answer: str, expected: str) -> Scores:
        """Score an answer by its calls.

        `correct`: exactly the expected calls; `arguments`: share of the expected arguments that are equal in a call of
        the same tool; `name`: the expected tools; `valid`: calls of known tools, with arguments that fit.
        """
        found, wanted = parse_calls(answer) or [], parse_calls(expected) or []
        if not wanted:
            return dict.fromkeys(_MEASURES, float(_is_words(answer, expected)))
        return {
            "correct": float(_same(found, wanted)),
            "arguments": _right_arguments(found, wanted),
            "name": float(sorted(call.name for call in found) == sorted(call.name for call in wanted)),
            "valid": float(bool(found) and all(map(self._is_valid, found))),
        }

    def _is_valid(self, call: Call) -> bool:
        if call.arguments is None:
            return False
        if not self.tools:
            return True
        return any(_fits(call.arguments, schema) for schema in self.tools.get(call.name, ()))


def tool_schemas(tools: Iterable[Sequence[dict[str, Any]]]) -> Schemas:
    """Return the schemas of all tools of many requests."""
    found: Schemas = {}
    for request in tools:
        for tool in request:
            schemas = found.setdefault(tool["function"]["name"], [])
            schema = tool["function"].get("parameters") or {}
            if schema not in schemas:
                schemas.append(schema)
    return found


def _is_words(answer: str, expected: str) -> bool:
    """Whether an answer is text without calls, also without such as the server could not parse."""
    if parse_calls(answer) is not None:
        return answer == expected
    if not answer.strip():
        return not expected.strip()
    return not _CALL_MARK.search(answer) or bool(_CALL_MARK.search(expected))


def _same(found: Sequence[Call], wanted: Sequence[Call]) -> bool:
    left = list(found)
    for call in wanted:
        same = [n for n, other in enumerate(left) if other.name == call.name and _are_equal(other[1], call[1])]
        if not same:
            return False
        del left[same[0]]
    return not left


def _right_arguments(found: Sequence[Call], wanted: Sequence[Call]) -> float:
    """Return the share of the expected arguments that are right; names without arguments count as one."""
    left, right, total = list(found), 0, 0
    for call in wanted:
        expected = call.arguments or {}
        total += len(expected) or 1
        same_tool = [other for other in left if other.name == call.name]
        if same_tool:
            best = max(same_tool, key=partial(_equal, wanted=call))
            left.remove(best)
            right += _equal(best, call) if expected else not best.arguments
    return right / total


def _equal(call: Call, wanted: Call) -> int:
    arguments = call.arguments or {}
    return sum(
        key in arguments and _are_equal(arguments[key], value) for key, value in (wanted.arguments or {}).items()
    )


def _are_equal(found: Any, wanted: Any) -> bool:
    """Whether JSON values are equal, as JSON schema has it: 2.0 is 2, but true is not 1, as in Python."""
    try:
        return bool(jsonschema.Draft202012Validator({"const": wanted}).is_valid(found))
    except RecursionError:  # as deep as the JSON parser allows
        return bool(found == wanted)


def _fits(arguments: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether arguments fit a schema, apart from its expressions; True if it is not a schema or can't be checked."""
    if _UNCHECKED.search(json.dumps(schema)):
        return True
    try:
        _Validator.check_schema(schema)
        return bool(_Validator(schema).is_valid(arguments))
    except Exception:  # noqa: BLE001 - strangers' schemas: unresolvable or endless references
        return True
