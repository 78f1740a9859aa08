import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_loadtests.client import ChatClient, ChatReply

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
QUESTION = [{"role": "user", "content": "Hello?"}]
DONE = b"data: [DONE]\n\n"


def event(content: str | None = None, **more: Any) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    return b"data: " + json.dumps({"model": "base", "choices": choices, **more}).encode() + b"\n\n"


def usage(prompt: int, output: int, cached: int | None = None) -> dict[str, Any]:
    details = None if cached is None else {"cached_tokens": cached}
    return {"prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": details}


def streaming(*parts: bytes | float) -> Handler:
    """Answers with a stream of `parts`; a number is a pause in seconds."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-request-id": "req-1"})
        await response.prepare(request)
        for part in parts:
            await (asyncio.sleep(part) if isinstance(part, float) else response.write(part))
        return response

    return handler


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    async with TestServer(app) as running:
        yield str(running.make_url("/"))


async def ask(handler: Handler, **arguments: Any) -> ChatReply:
    async with server(handler) as url, ChatClient(url, timeout=5) as client:
        return await client.chat("base", QUESTION, max_tokens=8, **arguments)


async def test_a_stream_is_joined_and_timed_from_its_first_chunk_with_text() -> None:
    parts = event(""), 0.1, event("Good "), 0.1, event("day"), event(usage=usage(30, 3, 16)), DONE
    reply = await ask(streaming(*parts))
    assert (reply.ok, reply.status, reply.text, reply.error) == (True, 200, "Good day", None)
    assert (reply.input_tokens, reply.cached_tokens, reply.output_tokens) == (30, 16, 3)
    assert (reply.model, reply.request_id) == ("base", "req-1")
    assert reply.first is not None
    assert reply.first - reply.sent == pytest.approx(0.1, abs=0.07)
    assert reply.last - reply.first == pytest.approx(0.1, abs=0.07)


async def test_calls_of_tools_are_joined_from_their_pieces_and_timed_as_text_is() -> None:
    def piece(**function: str) -> bytes:
        delta = {"tool_calls": [{"index": 0, "function": function}]}
        return b"data: " + json.dumps({"model": "base", "choices": [{"delta": delta}]}).encode() + b"\n\n"

    parts = event(""), piece(name="rain", arguments=""), piece(arguments='{"city": '), piece(arguments='"Oslo"}'), DONE
    reply = await ask(streaming(*parts))
    assert reply.text == '{"tool_calls": [{"name": "rain", "arguments": {"city": "Oslo"}}]}'
    assert reply.first


@pytest.mark.parametrize("calls", [7, [7], [{"function": 7}], [{"index": "x", "function": {"name": 5}}], {"a": 1}])
async def test_calls_in_another_form_fail_nothing(calls: Any) -> None:
    chunk = b"data: " + json.dumps({"choices": [{"delta": {"content": "Hi", "tool_calls": calls}}]}).encode() + b"\n\n"
    reply = await ask(streaming(chunk, DONE))
    assert reply.ok
    assert "Hi" in reply.text


@pytest.mark.parametrize(
    ("reason", "known"), [("length", "length"), ("stop", "stop"), (None, None), (7, None), ({"a": 1}, None)]
)
async def test_the_reason_why_an_answer_ended_is_what_the_server_says_if_it_is_text(reason: Any, known: str) -> None:
    ended = b"data: " + json.dumps({"choices": [{"delta": {}, "finish_reason": reason}]}).encode() + b"\n\n"
    reply = await ask(streaming(event("Good"), ended, event(usage=usage(30, 3)), DONE))
    assert (reply.ok, reply.finish_reason) == (True, known)


async def test_the_end_token_without_text_counts_in_the_time_per_token() -> None:
    parts = event("Good "), 0.1, event("day"), 0.1, event("", usage=usage(30, 3)), 0.1, event(usage=usage(30, 3)), DONE
    reply = await ask(streaming(*parts))
    assert reply.tpot == pytest.approx(0.1, abs=0.035)


async def test_the_time_per_output_token_leaves_the_first_token_out() -> None:
    reply = dataclasses.replace(await ask(streaming(DONE)), sent=2.0, first=5.0, last=9.0, output_tokens=3)
    assert (reply.ttft, reply.tpot, reply.duration) == (3.0, 2.0, 7.0)
    assert dataclasses.replace(reply, output_tokens=1).tpot is None


async def test_a_broken_answer_lasts_until_it_broke() -> None:
    reply = await ask(streaming(event(""), event("Good "), 0.2))
    assert not reply.ok
    assert reply.duration > 0.2


async def test_a_stream_split_anywhere_by_the_network_reads_the_same() -> None:
    whole = event("") + event("été") + event("!", usage=usage(5, 2)) + DONE
    reply = await ask(streaming(*(whole[i : i + 1] for i in range(len(whole)))))
    assert (reply.ok, reply.text, reply.output_tokens) == (True, "été!", 2)


async def test_comments_and_other_fields_of_a_stream_are_ignored() -> None:
    reply = await ask(streaming(b": ping\n\nevent: message\nid: 7\n", event("Hi"), DONE))
    assert (reply.ok, reply.text) == (True, "Hi")


async def test_an_empty_answer_has_no_time_to_its_first_chunk() -> None:
    reply = await ask(streaming(event(""), event(usage=usage(5, 1)), DONE))
    assert (reply.ok, reply.text, reply.ttft, reply.tpot) == (True, "", None, None)
    assert reply.duration > 0


async def test_impossible_token_counts_are_0() -> None:
    reply = await ask(streaming(event("Hi"), event(usage={"prompt_tokens": -3, "completion_tokens": "2"}), DONE))
    assert (reply.ok, reply.input_tokens, reply.output_tokens) == (True, 0, 0)


async def test_an_answer_that_is_not_streamed_has_no_time_to_its_first_chunk() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert "stream_options" not in await request.json()
        choices = [{"message": {"content": "Hi"}}]
        return web.json_response({"model": "base", "choices": choices, "usage": usage(5, 2)})

    reply = await ask(handler, stream=False)
    assert (reply.ok, reply.text, reply.output_tokens, reply.ttft) == (True, "Hi", 2, None)


async def test_a_prompt_of_token_ids_is_completed_without_a_template() -> None:
    asked: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        return web.json_response({"model": "tone", "choices": [{"text": "x"}], "usage": usage(1, 1)})

    app = web.Application()
    app.router.add_post("/v1/completions", handler)
    async with TestServer(app) as running, ChatClient(str(running.make_url("/")), timeout=5) as client:
        reply = await client.complete("tone", [7], max_tokens=1)
    assert (reply.ok, reply.text, reply.output_tokens) == (True, "x", 1)
    assert asked == [{"model": "tone", "prompt": [7], "max_tokens": 1, "temperature": 0.0}]


async def test_the_request_has_the_given_parameters_and_nothing_else() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((await request.json(), request.headers.get("Authorization")))
        return await streaming(DONE)(request)

    async with server(handler) as url:
        async with ChatClient(url) as client:
            await client.chat("base", QUESTION, max_tokens=8)
        async with ChatClient(url + "v1", api_key="secret") as client:
            await client.chat("b", QUESTION, max_tokens=1, seed=3, ignore_eos=True, extra={"top_p": 0.5})
    common = {"messages": QUESTION, "temperature": 0.0, "stream": True, "stream_options": {"include_usage": True}}
    more = {"seed": 3, "ignore_eos": True, "top_p": 0.5}
    assert seen[0] == ({"model": "base", "max_tokens": 8, **common}, None)
    assert seen[1] == ({"model": "b", "max_tokens": 1, **common, **more}, "Bearer secret")


async def test_the_scheduled_time_is_kept_and_defaults_to_the_time_of_sending() -> None:
    late = await ask(streaming(DONE), scheduled=1.0)
    prompt = await ask(streaming(DONE))
    assert late.scheduled == 1.0 < late.sent
    assert prompt.scheduled == prompt.sent


async def test_an_error_response_gives_status_code_and_message() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = {"error": {"message": "no such model", "code": "model_not_found"}}
        return web.json_response(body, status=404, headers={"x-request-id": "req-2"})

    reply = await ask(handler)
    assert (reply.ok, reply.status, reply.request_id) == (False, 404, "req-2")
    assert reply.error == "404 model_not_found: no such model"


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"<html>Bad gateway", "502 <html>Bad gateway"), (b"", "502 Bad Gateway"), (b"[1]", "502 [1]")],
)
async def test_an_error_response_in_another_format_is_quoted(body: bytes, error: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=502, body=body)

    assert (await ask(handler)).error == error


async def test_a_redirect_is_not_followed() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/elsewhere")

    reply = await ask(handler)
    assert (reply.ok, reply.status) == (False, 307)


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ((event("a"), event("b")), "the stream ended before its [DONE]"),
        ((event("ab"), b'data: {"error": {"message": "engine died", "code": 500}}\n\n', DONE), "500: engine died"),
        ((event("ab"), b'data: {"error": "engine died"}\n\n', DONE), "engine died"),
        ((event("ab"), b"data: {oops\n\n", DONE), "not JSON"),
        ((event("ab"), b"data: " + b"[" * 100_000 + b"\n\n", DONE), "not JSON"),
        ((event("ab"), b"data: 7\n\n", DONE), "not a JSON object"),
        ((event("ab"), b'data: {"hello": 1}\n\n', DONE), "a response without choices"),
        ((event("ab"), b"data: " + b"x" * 3_000_000 + b"\n\n", DONE), "does not end"),
    ],
)
async def test_a_broken_stream_is_an_error_that_keeps_the_text_before_it(parts: tuple[bytes, ...], error: str) -> None:
    reply = await ask(streaming(*parts))
    assert (reply.ok, reply.status, reply.text) == (False, 200, "ab")
    assert error in str(reply.error)


async def test_a_stream_whose_connection_breaks_is_an_error() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(event("ab"))
        assert request.transport is not None
        request.transport.abort()
        return response

    reply = await ask(handler)
    assert (reply.ok, reply.text) == (False, "ab")
    assert reply.error


async def test_a_response_that_is_not_json_is_an_error() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>welcome")

    reply = await ask(handler)
    assert (reply.ok, reply.error) == (False, "not JSON: b'<html>welcome'")


async def test_an_answer_that_takes_too_long_is_an_error() -> None:
    async with server(streaming(event("ab"), 3.0, DONE)) as url, ChatClient(url, timeout=0.3) as client:
        reply = await client.chat("base", QUESTION, max_tokens=8)
    assert (reply.ok, reply.text) == (False, "ab")
    assert "in time" in str(reply.error)


async def test_an_unreachable_server_is_an_error_without_a_status() -> None:
    async with ChatClient("http://127.0.0.1:9") as client:
        reply = await client.chat("base", QUESTION, max_tokens=8)
    assert (reply.ok, reply.status) == (False, 0)
    assert "ClientConnectorError" in str(reply.error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "usage", "delta", "content", "model", "error", "prompt_tokens_details"]), inner
        )
    ),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(bodies=st.lists(JSON | st.binary(max_size=40), max_size=4))
def test_no_content_of_a_stream_raises(bodies: list[Any]) -> None:
    parts = [b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n" for body in bodies]
    reply = asyncio.run(ask(streaming(*parts, DONE)))
    assert reply.status == 200
    assert reply.ok == (reply.error is None)
