"""One chat request to an OpenAI-compatible server, timed where its user feels it: at the first piece and at the end.

All moments are seconds on `time.monotonic`'s clock. A server's failure is an answer too (`Reply.ok` is False and
`Reply.error` says why), so that a load test counts it instead of ending with it.
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

MAX_EVENT_BYTES = 1 << 20
"""Half the longest line of a stream that is read; a longer one is a broken stream."""
MAX_REFUSAL_BYTES = 1 << 16
"""How much of an error's body is looked at."""

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request. Token counts are the server's own, 0 where it did not tell them."""

    ok: bool
    status: int
    """HTTP status, 0 when no response came."""
    text: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    scheduled: float
    """When the request should have been sent; `sent` is later when the client fell behind."""
    sent: float
    first: float | None
    """The first piece with text in it, None for a plain (not streamed) or an empty answer."""
    last: float
    """The last event of a stream that has a choice: an end token has no text, and is counted among the tokens. Of an
    answer that broke, or had no such event, its end."""
    moments: tuple[float, ...]
    """When each piece of a stream came: its events with a choice, whether or not they brought text."""
    error: str | None
    model: str
    """The model that answered, as the server names it."""
    request_id: str

    @property
    def ttft(self) -> float | None:
        """Seconds from sending to the first piece with text in it."""
        return None if self.first is None else self.first - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first piece with text; None for a single token."""
        if self.first is None or self.output_tokens < 2:
            return None
        return (self.last - self.first) / (self.output_tokens - 1)

    @property
    def duration(self) -> float:
        """Seconds from sending to the end of the answer."""
        return self.last - self.sent


class ProtocolError(Exception):
    """The server answered with something that is not OpenAI's protocol, or with an error inside a stream."""


class Client:
    """A connection pool to one server, without a limit of its own on concurrent requests.

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
    ) -> Reply:
        """Ask for one answer. `extra` goes into the request's body as it is; `ignore_eos` is vLLM's extension."""
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
        return await self._exchange("chat/completions", body, scheduled)

    async def complete(self, model: str, prompt: Sequence[int], *, max_tokens: int) -> Reply:
        """Ask for a plain answer to a prompt of token ids, without a template around it."""
        body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0}
        return await self._exchange("completions", body, None)

    async def models(self) -> list[dict[str, Any]]:
        """The models that the server serves; raises ProtocolError if it does not tell."""
        try:
            async with self._session.get(f"{self.url}/v1/models") as response:
                if response.status != 200:
                    raise ProtocolError(await _refusal(response))
                found = _parsed(await response.read()).get("data")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProtocolError(f"{self.url}: {error}") from error
        return [model for model in found if isinstance(model, dict)] if isinstance(found, list) else []

    async def _exchange(self, route: str, body: Mapping[str, Any], scheduled: float | None) -> Reply:
        answer = _Answer()
        sent = time.monotonic()
        error = None
        try:
            url = f"{self.url}/v1/{route}"
            # A redirect is not followed: it would carry the key to an address that nobody chose.
            async with self._session.post(url, json=body, allow_redirects=False) as response:
                await answer.read(response)
        except ProtocolError as broken:
            error = str(broken)
        except TimeoutError as late:
            error = f"no answer in time: {late}" if str(late) else "no answer in time"
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        return answer.reply(scheduled=sent if scheduled is None else scheduled, sent=sent, error=error)


class _Answer:
    """What has arrived of one answer so far; what a broken stream had brought is kept."""

    def __init__(self) -> None:
        self.status = 0
        self.request_id = ""
        self.model = ""
        self.pieces: list[str] = []
        self.usage: dict[str, Any] = {}
        self.first: float | None = None
        self.moments: list[float] = []

    async def read(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.request_id = response.headers.get("x-request-id", "")
        if response.status != 200:
            raise ProtocolError(await _refusal(response))
        if response.content_type == "text/event-stream":
            async for event in _events(response):
                piece, now = self._take(event, "delta"), time.monotonic()
                if event["choices"]:
                    self.moments.append(now)
                if piece:
                    self.first = self.first or now
                    self.pieces.append(piece)
        else:
            self.pieces.append(self._take(_parsed(await response.read()), "message"))

    def _take(self, body: dict[str, Any], part: str) -> str:
        """Keep what `body` says about the answer and return the text in its `part`."""
        if body.get("error"):
            raise ProtocolError(_reason(body))
        self.model = str(body.get("model") or self.model)
        self.usage = _mapping(body.get("usage")) or self.usage
        choices = body.get("choices")
        if not isinstance(choices, list):
            raise ProtocolError(f"an answer without choices: {body!r:.200}")
        choice = _mapping(choices[0] if choices else None)
        return str(_mapping(choice.get(part)).get("content") or choice.get("text") or "")

    def reply(self, *, scheduled: float, sent: float, error: str | None) -> Reply:
        return Reply(
            ok=error is None,
            status=self.status,
            text="".join(self.pieces),
            input_tokens=_count(self.usage, "prompt_tokens"),
            cached_tokens=_count(_mapping(self.usage.get("prompt_tokens_details")), "cached_tokens"),
            output_tokens=_count(self.usage, "completion_tokens"),
            scheduled=scheduled,
            sent=sent,
            first=self.first,
            last=self.moments[-1] if self.moments and error is None else time.monotonic(),
            moments=tuple(self.moments),
            error=error,
            model=self.model,
            request_id=self.request_id,
        )


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON bodies of a stream of server-sent events, until its `[DONE]`."""
    rest = b""
    async for chunk in response.content.iter_any():  # a line at a time costs a fifth more
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > 2 * MAX_EVENT_BYTES:
            raise ProtocolError("a line of the stream does not end")
        for line in lines:
            name, _, data = line.strip().partition(b":")
            if name != b"data":
                continue
            if data.strip() == b"[DONE]":
                return
            yield _parsed(data)
    raise ProtocolError("the stream ended before its [DONE]")


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {data!r:.200}") from error
    if not isinstance(body, dict):
        raise ProtocolError(f"not a JSON object: {data!r:.200}")
    return body


async def _refusal(response: aiohttp.ClientResponse) -> str:
    try:
        data = await response.content.readexactly(MAX_REFUSAL_BYTES)
    except asyncio.IncompleteReadError as short:
        data = short.partial
    try:
        reason = _reason(_parsed(data))
    except ProtocolError:
        reason = data.decode(errors="replace").strip()[:200] or response.reason or "no reason given"
    return f"{response.status} {reason}"


def _reason(body: dict[str, Any]) -> str:
    error = body.get("error")
    fields = _mapping(error)
    words = [str(fields[name]) for name in ("code", "message") if fields.get(name)]
    return ": ".join(words) or str(error)[:200]


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
