"""Client for OpenAI-compatible servers that times each request: to its first chunk with text, and to its end.

All times are seconds on the clock of `time.monotonic`. A failed request raises nothing: its reply has `ok` False and
the reason in `error`, so that a load test counts it and continues.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from loramux_loadtests.call_collector import CallCollector

MAX_EVENT_BYTES = 1 << 20
"""Half of the longest line that is read from a stream; a longer one is an error."""
MAX_ERROR_BYTES = 1 << 16
"""Bytes of an error response's body that are read."""

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The result of one request; token counts are the server's, 0 where it sent none."""

    ok: bool
    status: int
    """HTTP status, 0 without a response."""
    text: str
    """The content; with calls of tools, as in loramux_adapters.evaluation.calls."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    scheduled: float
    """Time at which the request was to be sent; `sent` is later if the client fell behind."""
    sent: float
    first: float | None
    """Time of the first chunk with text, None for an empty answer or one that was not streamed."""
    last: float
    """Time of the last chunk with a choice, even without text, as the end token counts among the tokens; without such a
    chunk, or after an error, the time of the end."""
    chunk_times: tuple[float, ...]
    """Times of all chunks with a choice, with or without text."""
    error: str | None
    model: str
    """Name of the model that answered, from the response."""
    request_id: str
    finish_reason: str | None = None
    """Why the answer ended, as the server says: `stop`, `length` (cut off), ...; None if it did not say."""

    @property
    def ttft(self) -> float | None:
        """Seconds from sending to the first chunk with text."""
        return None if self.first is None else self.first - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first chunk with text; None for a single token."""
        if self.first is None or self.output_tokens < 2:
            return None
        return (self.last - self.first) / (self.output_tokens - 1)

    @property
    def duration(self) -> float:
        """Seconds from sending to the end of the answer."""
        return self.last - self.sent


class ProtocolError(Exception):
    """The response does not follow OpenAI's protocol, or is an error."""


class ChatClient:
    """A connection pool to one server, without a limit on concurrent requests.

    `url` is the server's root, with or without the closing `/v1`; `timeout` bounds one whole request, in seconds.
    """

    def __init__(self, url: str, api_key: str | None = None, *, timeout: float = 600.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=10.0)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=self._headers,
            timeout=self._timeout,
            read_bufsize=MAX_EVENT_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def chat(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        stream: bool = True,
        ignore_eos: bool | None = None,
        extra: Mapping[str, Any] | None = None,
        scheduled: float | None = None,
    ) -> ChatReply:
        """Send a chat completion request; `extra` is added to its body, and `ignore_eos` is an extension of vLLM."""
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        optional = {"seed": seed, "ignore_eos": ignore_eos}
        body |= {name: value for name, value in optional.items() if value is not None} | dict(extra or {})
        return await self._post("chat/completions", body, scheduled)

    async def complete(self, model: str, prompt: Sequence[int], *, max_tokens: int) -> ChatReply:
        """Send a completion request, not streamed, for a prompt of token ids."""
        body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0}
        return await self._post("completions", body, None)

    async def models(self) -> list[dict[str, Any]]:
        """Return the models that the server lists.

        Raises:
            ProtocolError: the server can't be reached, or did not answer with a list.
        """
        try:
            async with self._session.get(f"{self.url}/v1/models") as response:
                if response.status != 200:
                    raise ProtocolError(await _error_message(response))
                found = _parse_object(await response.read()).get("data")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProtocolError(f"{self.url}: {error}") from error
        return [model for model in found if isinstance(model, dict)] if isinstance(found, list) else []

    async def _post(self, route: str, body: Mapping[str, Any], scheduled: float | None) -> ChatReply:
        reply = _ReplyBuilder()
        sent = time.monotonic()
        error = None
        try:
            url = f"{self.url}/v1/{route}"
            # Following a redirect would send the key to another address.
            async with self._session.post(url, json=body, allow_redirects=False) as response:
                await reply.read(response)
        except ProtocolError as protocol_error:
            error = str(protocol_error)
        except TimeoutError as timeout:
            error = f"no answer in time: {timeout}" if str(timeout) else "no answer in time"
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        return reply.build(scheduled=sent if scheduled is None else scheduled, sent=sent, error=error)


class _ReplyBuilder:
    """Collects a response as it arrives; the part before an error is kept."""

    def __init__(self) -> None:
        self.status = 0
        self.request_id = ""
        self.model = ""
        self.finish_reason: str | None = None
        self.chunks: list[str] = []
        self.calls = CallCollector()
        self.usage: dict[str, Any] = {}
        self.first: float | None = None
        self.chunk_times: list[float] = []

    async def read(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.request_id = response.headers.get("x-request-id", "")
        if response.status != 200:
            raise ProtocolError(await _error_message(response))
        if response.content_type == "text/event-stream":
            async for event in _iter_events(response):
                has_text, now = self._add(event, "delta"), time.monotonic()
                if event["choices"]:
                    self.chunk_times.append(now)
                if has_text:
                    self.first = self.first or now
        else:
            self._add(_parse_object(await response.read()), "message")

    def _add(self, body: dict[str, Any], part: str) -> bool:
        """Take model, usage, and the text and calls in its `part` from `body`; returns whether there were some."""
        if body.get("error"):
            raise ProtocolError(_format_error(body))
        self.model = str(body.get("model") or self.model)
        self.usage = _as_dict(body.get("usage")) or self.usage
        choices = body.get("choices")
        if not isinstance(choices, list):
            raise ProtocolError(f"a response without choices: {body!r:.200}")
        choice = _as_dict(choices[0] if choices else None)
        if isinstance(reason := choice.get("finish_reason"), str):
            self.finish_reason = reason
        message = _as_dict(choice.get(part))
        text, calls = str(message.get("content") or choice.get("text") or ""), message.get("tool_calls")
        self.chunks.append(text)
        self.calls.add(calls)
        return bool(text or calls)

    def build(self, *, scheduled: float, sent: float, error: str | None) -> ChatReply:
        return ChatReply(
            ok=error is None,
            status=self.status,
            text=self.calls.answer_text("".join(self.chunks)),
            input_tokens=_token_count(self.usage, "prompt_tokens"),
            cached_tokens=_token_count(_as_dict(self.usage.get("prompt_tokens_details")), "cached_tokens"),
            output_tokens=_token_count(self.usage, "completion_tokens"),
            scheduled=scheduled,
            sent=sent,
            first=self.first,
            last=self.chunk_times[-1] if self.chunk_times and error is None else time.monotonic(),
            chunk_times=tuple(self.chunk_times),
            error=error,
            model=self.model,
            request_id=self.request_id,
            finish_reason=self.finish_reason,
        )


async def _iter_events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events, until its `[DONE]`."""
    rest = b""
    async for chunk in response.content.iter_any():  # reading line by line takes a fifth more CPU time
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > 2 * MAX_EVENT_BYTES:
            raise ProtocolError("a line of the stream does not end")
        for line in lines:
            name, _, data = line.strip().partition(b":")
            if name != b"data":
                continue
            if data.strip() == b"[DONE]":
                return
            yield _parse_object(data)
    raise ProtocolError("the stream ended before its [DONE]")


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {data!r:.200}") from error
    if not isinstance(body, dict):
        raise ProtocolError(f"not a JSON object: {data!r:.200}")
    return body


async def _error_message(response: aiohttp.ClientResponse) -> str:
    try:
        data = await response.content.readexactly(MAX_ERROR_BYTES)
    except asyncio.IncompleteReadError as short:
        data = short.partial
    try:
        reason = _format_error(_parse_object(data))
    except ProtocolError:
        reason = data.decode(errors="replace").strip()[:200] or response.reason or "no reason given"
    return f"{response.status} {reason}"


def _format_error(body: dict[str, Any]) -> str:
    error = body.get("error")
    fields = _as_dict(error)
    parts = [str(fields[name]) for name in ("code", "message") if fields.get(name)]
    return ": ".join(parts) or str(error)[:200]


def _as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _token_count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
