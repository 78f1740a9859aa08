"""Translation of vLLM's and FastAPI's error bodies."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_server.errors import MAX_MESSAGE_LENGTH, SERVER_FAULT, envelope
from loramux_server.middleware.error_translation import from_body, from_event


def read(status: int, message: str, **fields: object) -> tuple[int, str, str | None, str | None]:
    body = json.dumps({"error": {"message": message, "code": status, **fields}}).encode()
    error = from_body(status, body, "POST /v1/x")
    return error.status, error.type, error.param, error.code


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "Odd.", (400, "invalid_request_error", "tools", None)),
        (422, "Odd.", (400, "invalid_request_error", "tools", None)),
        (501, "No beams.", (400, "invalid_request_error", "tools", None)),
        (404, "No such response.", (404, "invalid_request_error", "tools", None)),
        (404, "The model `x` does not exist.", (404, "invalid_request_error", "model", "model_not_found")),
        (429, "Slowly.", (429, "requests", None, "rate_limit_exceeded")),
        (500, "Broken.", (500, "server_error", None, None)),
        (502, "Broken.", (502, "server_error", None, None)),
        (503, "Full.", (503, "server_error", None, "server_overloaded")),
    ],
)
def test_each_status_has_openais_words(
    status: int, message: str, expected: tuple[int, str, str | None, str | None]
) -> None:
    assert read(status, message, param="tools") == expected


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens.",
        "The decoder prompt (length 9) is longer than the maximum model length of 8. Make sure that ...",
    ],
)
def test_a_too_long_prompt_has_its_own_code(message: str) -> None:
    assert read(400, message)[3] == "context_length_exceeded"


@pytest.mark.parametrize("name", ["x", "a`b", "two\nlines", "`. Valid aliases: ", ""])
def test_an_unknown_model_error_names_it_but_not_the_served_ones(name: str) -> None:
    body = {"error": {"message": f"The model `{name}` does not exist. Valid aliases: base.", "code": 404}}
    message = from_body(404, json.dumps(body).encode(), "").message
    assert message == f"The model `{name}` does not exist."


def test_a_code_in_words_is_kept() -> None:
    body = {"error": {"message": "Taken.", "param": "name", "code": "adapter_exists"}}
    error = from_body(409, json.dumps(body).encode(), "")
    assert (error.message, error.param, error.code) == ("Taken.", "name", "adapter_exists")


def test_anthropics_shape_is_read_too() -> None:
    body = {"type": "error", "error": {"type": "BadRequestError", "message": "Odd."}}
    assert from_body(400, json.dumps(body).encode(), "").message == "Odd."


@pytest.mark.parametrize(
    ("detail", "expected"), [("Not Found", "Not Found: GET /v1/nowhere."), ("No such file.", "No such file.")]
)
def test_an_unknown_path_is_named_and_other_messages_are_kept(detail: str, expected: str) -> None:
    assert from_body(404, json.dumps({"detail": detail}).encode(), "GET /v1/nowhere").message == expected


@pytest.mark.parametrize(
    ("code", "status"), [(400, 400), (503, 503), (200, 500), (None, 500), ("x", 500), (10**9, 500)]
)
def test_an_events_code_is_the_status_that_it_would_have_had(code: object, status: int) -> None:
    event = json.dumps({"error": {"message": "No.", "code": code}})
    assert from_event(f"data: {event}\n\n".encode()).status == status


keys = st.sampled_from(["error", "message", "code", "param", "detail", "type"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(keys, values),
)


@given(st.integers(400, 599), st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_body_gives_an_error_with_valid_types(status: int, body: bytes) -> None:
    for error in (from_body(status, body, "POST /"), from_event(b"data: " + body)):
        fields = envelope(error)["error"]
        assert 400 <= error.status < 600
        assert len(fields["message"]) <= MAX_MESSAGE_LENGTH
        assert all(isinstance(value, str | None) for value in fields.values())
        # A text as a code is ours; vLLM's are numbers, and its messages for the log.
        assert error.status < 500 or error.status == 503 or error.code or fields["message"] == SERVER_FAULT
