"""Values that nothing behind the server can hold are refused, whatever the field."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_server.errors import InvalidRequest
from loramux_server.middleware.json_values import check_json_values, check_values

MANY = 1000
HOSTILE: list[Any] = [2**64, -(2**63) - 1, 2**70, math.nan, math.inf, -math.inf, "\ud800", "a\udfffb"]
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    PLAIN | st.text(),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(st.text(max_size=4), items, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("hostile", HOSTILE, ids=repr)
def test_a_value_that_nothing_can_hold_is_refused_with_the_name_of_its_field(hostile: Any, encoding: str) -> None:
    body = json.dumps({"messages": [{"content": "hello"}, {"content": hostile}]}).encode(encoding)
    with pytest.raises(InvalidRequest) as refused:
        check_values(body, MANY)
    assert refused.value.param == "messages[1].content"
    assert refused.value.status == 400


def test_text_without_an_encoding_is_found_in_raw_bytes_too() -> None:
    """Python's JSON reads them as half of a surrogate pair."""
    with pytest.raises(InvalidRequest):
        check_values(b'{"model": "\xed\xa0\x80"}', MANY)


def test_a_number_beyond_floating_point_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        check_values(b'{"temperature": 1e999}', MANY)


def test_a_field_without_an_encoding_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the body"):
        check_values(json.dumps({"\ud800": 1}).encode(), MANY)


@given(JSON)
def test_every_value_that_json_and_64_bits_can_hold_passes(value: Any) -> None:
    check_values(json.dumps(value).encode(), MANY)
    check_values(json.dumps(value, ensure_ascii=False).encode(), MANY)


@given(JSON, st.sampled_from(HOSTILE))
def test_a_hostile_value_is_found_next_to_any_others(value: Any, hostile: Any) -> None:
    with pytest.raises(InvalidRequest):
        check_values(json.dumps([value, {"a": [value, hostile]}]).encode(), MANY)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"a": 99999999999999999999999'])
def test_what_is_no_json_is_left_to_the_handler(body: bytes) -> None:
    check_values(body, MANY)


def test_a_body_of_too_many_values_is_refused_unparsed() -> None:
    check_values(json.dumps([1] * MANY).encode(), MANY)
    with pytest.raises(InvalidRequest, match="max_values"):
        check_values(json.dumps([1] * (MANY + 1)).encode(), MANY)


async def _received(messages: list[dict[str, Any]], content_type: bytes = b"application/json") -> list[Any]:
    """Return the messages that an application behind the check receives."""
    seen: list[Any] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while not seen or seen[-1].get("more_body"):
            seen.append(await receive())

    async def receive() -> Any:
        return messages.pop(0)

    async def send(_message: Any) -> None:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", content_type)]}
    await check_json_values(app, MANY)(scope, receive, send)
    return seen


@pytest.mark.asyncio
async def test_the_application_receives_the_whole_body() -> None:
    parts = [{"type": "http.request", "body": part, "more_body": part != b"1}"} for part in (b'{"a"', b": ", b"1}")]
    assert await _received(parts) == [{"type": "http.request", "body": b'{"a": 1}', "more_body": False}]


@pytest.mark.asyncio
async def test_the_application_learns_that_the_client_left() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "http.request", "body": b'{"a"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    assert await _received(list(parts)) == parts


@pytest.mark.asyncio
async def test_other_bodies_are_not_read() -> None:
    upload = {"type": "http.request", "body": b"NaN" + b"," * 2 * MANY, "more_body": False}
    assert await _received([dict(upload)], b"multipart/form-data; boundary=x") == [upload]
