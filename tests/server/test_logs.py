"""The server's log: one line per error of a request, without what the client sent."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from starlette.types import Receive, Scope, Send

from loramux_server.engine_log import WithoutExpectedTracebacks
from loramux_server.errors import SERVER_FAULT
from loramux_server.logs import ACCESS, START, configure_logging
from loramux_server.settings.log_settings import LogSettings
from tests.helpers.asgi import MiddlewareHarness, answering

PROMPT = "my secret prompt"


@contextmanager
def logged(**settings: Any) -> Iterator[Callable[[], list[str]]]:
    """Configure the log; yields a function that returns the lines of standard error."""
    root, names = logging.getLogger(), (ACCESS, START)
    handlers, levels = list(root.handlers), [logging.getLogger(name).level for name in names]
    root.handlers.clear()  # another test may have left a server's own, which shortens the records before ours sees them
    stderr = io.StringIO()
    with patch("sys.stderr", stderr):
        configure_logging(LogSettings(**settings))
    try:
        yield lambda: stderr.getvalue().splitlines()
    finally:
        root.handlers[:] = handlers
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail with an error that quotes the prompt, as a validator's does."""
    try:
        int(PROMPT)
    except ValueError as error:
        raise RuntimeError(f"no number: {PROMPT}") from error


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_an_error_of_a_request_is_one_line_with_its_place_and_id_but_without_the_prompt(log_format: str) -> None:
    with logged(format=log_format) as lines:
        answer = await MiddlewareHarness(failing).ask(headers={"x-request-id": "req_7"})
    assert (answer.status, json.loads(answer.body)["error"]["message"]) == (500, SERVER_FAULT)
    (line,) = lines()
    assert "RuntimeError from ValueError in server/test_logs.py:" in line
    assert "req_7" in line
    assert PROMPT not in line


async def test_tracebacks_of_requests_are_logged_if_they_are_asked_for() -> None:
    with logged(format="json", tracebacks=True) as lines:
        await MiddlewareHarness(failing).ask()
    (line,) = lines()
    assert PROMPT in json.loads(line)["exception"]


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_requests_are_logged_with_id_key_and_status_but_without_query_and_secrets(log_format: str) -> None:
    with logged(format=log_format, requests=True) as lines:
        headers = {"authorization": "Bearer sk-secret", "x-request-id": "req_8"}
        await MiddlewareHarness(answering(200, b"{}"), ["sk-secret"]).ask(headers=headers)
    (line,) = lines()
    assert "sk-secret" not in line
    if log_format == "json":
        entry = json.loads(line)
        assert (entry["request_id"], entry["method"], entry["status"]) == ("req_8", "POST", 200)
        assert entry["path"] == "/v1/chat/completions"
        assert entry["key_id"].startswith("key_")
        assert entry["logger"] == ACCESS
        assert {"timestamp", "level", "message", "seconds", "outcome"} <= set(entry)
    else:
        assert "POST /v1/chat/completions 200" in line
        assert "req_8" in line


async def test_requests_are_not_logged_by_default() -> None:
    with logged() as lines:
        await MiddlewareHarness(answering(200, b"{}")).ask()
    assert lines() == []


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_path_can_not_forge_a_line(log_format: str) -> None:
    with logged(format=log_format, requests=True) as lines:
        await MiddlewareHarness(answering(200, b"{}")).ask("/x\n2026-01-01 ERROR forged\r\u2028\x1b[31m")
    (line,) = lines()
    assert "\x1b" not in line


def test_background_errors_keep_their_tracebacks() -> None:
    with logged(format="json") as lines:
        try:
            int("not a number")
        except ValueError:
            logging.getLogger("loramux.ledger").exception("it failed")
    (line,) = lines()
    assert "not a number" in json.loads(line)["exception"]


def test_the_steps_of_a_start_are_logged_as_json_only() -> None:
    for log_format, count in (("json", 1), ("text", 0)):
        with logged(format=log_format) as lines:
            logging.getLogger(START).info("loading 100 % of it")
        assert len(lines()) == count


class GracefulHTTPError(Exception):
    """Has the name of vLLM's."""


@pytest.mark.parametrize(("kind", "is_short"), [(GracefulHTTPError, True), (KeyError, False)])
def test_the_engines_log_has_no_tracebacks_of_refusals(kind: type[Exception], is_short: bool) -> None:
    error = kind("refused")
    record = logging.LogRecord("vllm", logging.ERROR, "", 1, "Error in %s.", ("stream",), (kind, error, None))
    assert WithoutExpectedTracebacks().filter(record)
    assert (record.exc_info is None) is is_short
    assert record.getMessage() == ("Error in stream. (GracefulHTTPError)" if is_short else "Error in stream.")
