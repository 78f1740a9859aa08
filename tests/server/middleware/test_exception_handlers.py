"""Exceptions of FastAPI's handlers, as sent to the client."""

from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, field_validator
from starlette.testclient import TestClient

from loramux_adapters.errors import AdapterNotFound
from loramux_server.errors import NotPermitted
from loramux_server.middleware.exception_handlers import add_error_handlers, invalid_body


class Message(BaseModel):
    role: str
    content: str | list[int]


class Chat(BaseModel):
    messages: list[Message]
    n: int = 1

    @field_validator("n", mode="before")
    @classmethod
    def walk(cls, n: Any) -> Any:
        return len(n) if not isinstance(n, int) else n


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    add_error_handlers(app)

    @app.post("/chat")
    async def chat(body: Annotated[Chat, Body()]) -> Chat:
        return body

    @app.get("/refused")
    async def refused() -> None:
        raise NotPermitted("Not with this key.")

    @app.get("/adapter")
    async def adapter() -> None:
        raise AdapterNotFound("There is no adapter tone.")

    return TestClient(app)


def error(client: TestClient, content: str | bytes, media_type: str = "application/json") -> dict[str, Any]:
    answer = client.post("/chat", content=content, headers={"content-type": media_type})
    assert answer.status_code == 400
    fields = answer.json()["error"]
    assert fields["type"] == "invalid_request_error"
    assert isinstance(fields, dict)
    return fields


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        ("{}", "messages", "messages: Field required"),
        ('{"messages": 1}', "messages", "messages: Input should be a valid list"),
        ('{"messages": [{"content": ""}]}', "messages.0.role", "messages.0.role: Field required"),
        (
            '{"messages": [{"role": "", "content": {}}]}',
            "messages.0.content",
            "messages.0.content: Input should be a valid string (and 1 more)",
        ),
        ("[]", None, "body: Input should be a valid dictionary or object to extract fields from"),
        ("", None, "body: Field required"),
    ],
)
def test_a_body_that_does_not_fit_names_the_field(
    client: TestClient, content: str, param: str | None, message: str
) -> None:
    fields = error(client, content)
    assert (fields["param"], fields["message"]) == (param, message)


def test_a_type_error_in_a_validator_is_a_400(client: TestClient) -> None:
    message = error(client, '{"messages": [], "n": null}')["message"]
    assert message == "A field of the body has the wrong type: object of type 'NoneType' has no len()."


@pytest.mark.parametrize("content", ["{", '{"messages": [', "nonsense"])
def test_invalid_json_is_reported_with_its_position(client: TestClient, content: str) -> None:
    assert error(client, content)["message"].startswith("The body is not valid JSON: ")


@pytest.mark.slow
def test_a_huge_wrong_body_gets_a_short_answer(client: TestClient) -> None:
    content = '{"messages": [' + ",".join(["{}"] * 20_000) + "]}"
    assert len(error(client, content)["message"]) < 100


def test_a_media_type_refused_by_vllm_keeps_its_message() -> None:
    problems = RequestValidationError(errors=["Unsupported Media Type: Only 'application/json' is allowed"]).errors()
    assert invalid_body(problems).message.startswith("Unsupported Media Type")


def test_a_field_may_have_the_name_of_a_type_but_a_tried_type_is_no_field() -> None:
    def problem(*location: str) -> dict[str, object]:
        return {"type": "x", "loc": ("body", *location), "msg": "wrong"}

    assert invalid_body([problem("bytes")]).param == "bytes"
    assert invalid_body([problem("stop", "bytes")]).param == "stop"


def test_api_errors_and_adapter_errors_keep_their_status(client: TestClient) -> None:
    refused, adapter = client.get("/refused"), client.get("/adapter")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_permitted")
    assert (adapter.status_code, adapter.json()["error"]["code"]) == (404, "adapter_not_found")
