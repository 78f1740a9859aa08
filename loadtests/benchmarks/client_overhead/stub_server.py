"""A server that streams tokens at exact times and does nothing else.

Run as `python -m benchmarks.client_overhead.stub_server PORT TTFT TPOT`.

Any time beyond TTFT and TPOT (seconds) in a load test of this server was added by the client. It implements only the
HTTP that our client needs, so that it doesn't compete with the client for its core.
"""

import asyncio
import itertools
import json
import re
import sys
from typing import cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"
MODELS = json.dumps({"object": "list", "data": [{"id": "stub"}]}).encode()
_LENGTH, _TOKENS = re.compile(rb"\r\nContent-Length: (\d+)", re.IGNORECASE), re.compile(rb'"max_tokens": ?(\d+)')


def _chunk(event: object) -> bytes:
    data = event if isinstance(event, bytes) else f"data: {json.dumps(event)}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


PIECE = _chunk(
    {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "stub",
        "choices": [{"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None}],
    }
)
"""As long as a chunk of vLLM."""


class StubProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, ttft: float, tpot: float) -> None:
        self._ttft, self._tpot = ttft, tpot
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        if not end or len(rest) < length:
            return
        self._received = rest[length:]
        if head.startswith(b"GET"):
            self._transport.write(HEAD % b"application/json" + b"Content-Length: %d\r\n\r\n%s" % (len(MODELS), MODELS))
        else:
            self._stream(int(tokens[1]) if (tokens := _TOKENS.search(rest)) else 1, length)

    def _stream(self, count: int, length: int) -> None:
        self._transport.write(HEAD % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n")
        loop = asyncio.get_running_loop()
        begin = loop.time() + self._ttft
        usage = {"prompt_tokens": length // 4, "completion_tokens": count}
        last = PIECE + _chunk({"choices": [], "usage": usage}) + _chunk(b"data: [DONE]\n\n") + _chunk(b"")
        for number in range(count):
            loop.call_at(begin + number * self._tpot, self._write, PIECE if number < count - 1 else last)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


async def serve(port: int, ttft: float, tpot: float) -> None:
    """Serve until cancelled."""
    server = await asyncio.get_running_loop().create_server(
        lambda: StubProtocol(ttft, tpot), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), *map(float, itertools.islice(sys.argv, 2, 4))))
