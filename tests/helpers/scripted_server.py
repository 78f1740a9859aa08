"""A server in this process that answers streams as it is told to, and remembers what it was asked."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Body = dict[str, Any]


@dataclass
class FakeServer:
    """`models`, the base first; `delay` says how long the first piece of a request takes, in seconds."""

    models: list[str] = field(default_factory=lambda: ["tiny", "tone", "intent"])
    delay: Callable[[Body], float] = lambda _: 0.0
    refuses: Callable[[Body], int] = lambda _: 0
    """The HTTP status of a refusal, 0 for none."""
    asked: list[Body] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.moments.append(time.monotonic())
        if status := self.refuses(body):
            return web.json_response({"error": {"message": "not today"}}, status=status)
        if not body.get("stream"):
            return web.json_response({"choices": [], "usage": {"prompt_tokens": 1}})
        await asyncio.sleep(self.delay(body))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = body["max_tokens"]
        words = sum(len(str(message["content"]).split()) for message in body["messages"])
        piece = {"model": body["model"], "choices": [{"delta": {"content": "x"}}]}
        usage = {"prompt_tokens": 10 + 3 * words, "completion_tokens": count}
        for event in [*[piece] * count, {"model": body["model"], "choices": [], "usage": usage}]:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def list(self, request: web.Request) -> web.Response:
        base, *adapters = self.models
        models = [{"id": base}, *({"id": name, "parent": base} for name in adapters)]
        return web.json_response({"object": "list", "data": models})

    async def other(self, request: web.Request) -> web.Response:
        self.paths.append(f"{request.method} {request.path}")
        return web.json_response({"error": {"message": "nothing here"}}, status=404)


@asynccontextmanager
async def serving(fake: FakeServer) -> AsyncIterator[FakeServer]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", fake.chat)
    app.router.add_get("/v1/models", fake.list)
    app.router.add_route("*", "/{path:.*}", fake.other)
    async with TestServer(app) as running:
        fake.url = str(running.make_url("/")).rstrip("/")
        yield fake
