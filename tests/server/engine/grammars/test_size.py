"""The size of what an answer must match."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_server.engine.grammars.size import check_size
from loramux_server.errors import InvalidRequest
from loramux_server.settings.request_limits import GrammarLimits

SMALL = GrammarLimits(max_bytes=200, max_depth=4, max_values=10)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("schema", "setting"),
    [
        ({"enum": ["x" * 300]}, "max_bytes"),
        (nested(5), "max_depth"),
        ({"enum": list(range(11))}, "max_values"),
    ],
)
def test_a_schema_beyond_a_limit_is_refused_with_the_field_and_the_setting(
    schema: Any, setting: str, as_text: bool
) -> None:
    with pytest.raises(InvalidRequest, match=f"grammars.{setting}") as refused:
        check_size({"json": json.dumps(schema) if as_text else schema}, SMALL)
    assert refused.value.param == "structured_outputs.json"
    assert refused.value.status == 400


def test_a_schema_at_its_limits_passes() -> None:
    check_size({"json": nested(4), "json_object": True}, SMALL)
    check_size({"json": {"enum": list(range(9))}}, SMALL)


def test_a_regular_expression_is_measured_by_its_length() -> None:
    check_size({"regex": "a" * 200}, SMALL)
    with pytest.raises(InvalidRequest, match="max_bytes"):
        check_size({"regex": "a" * 201}, SMALL)


@pytest.mark.parametrize("text", ["[" * 200, "not JSON", "\ud800", "", "1e999"])
def test_texts_that_are_no_json_are_left_to_the_grammar_process(text: str) -> None:
    check_size({"json": text}, SMALL)


def test_nesting_beyond_the_interpreters_stack_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="max_depth"):
        check_size({"json": nested(100_000)}, SMALL)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=3), items, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_a_text_is_measured_as_the_value_that_it_has(value: Any) -> None:
    def refusal(given: Any) -> str | None:
        try:
            check_size({"json": given}, GrammarLimits(max_bytes=80, max_depth=2, max_values=6))
        except InvalidRequest as error:
            return error.message
        return None

    if not isinstance(value, str):
        assert (refusal(value) is None) == (refusal(json.dumps(value)) is None)
