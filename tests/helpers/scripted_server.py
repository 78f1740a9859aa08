"""A server in this process with scripted answers, which records its requests."""

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
    """`models`, the base first; `delay` returns the seconds until the first chunk of a request."""

    models: list[str] = field(default_factory=lambda: ["tiny", "tone", "intent"])
    delay: Callable[[Body], float] = lambda _: 0.0
    error_status: Callable[[Body], int] = lambda _: 0
    """Returns the HTTP status of an error, 0 for an answer."""
    requests: list[Body] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.times.append(time.monotonic())
        if status := self.error_status(body):
            return web.json_response({"error": {"message": "not today"}}, status=status)
        if not body.get("stream"):
            return web.json_response({"choices": [], "usage": {"prompt_tokens": 1}})
        await asyncio.sleep(self.delay(body))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = body["max_tokens"]
        words = sum(len(str(message["content"]).split()) for message in body["messages"])
        chunk = {"model": body["model"], "choices": [{"delta": {"content": "x"}}]}
        usage = {"prompt_tokens": 10 + 3 * words, "completion_tokens": count}
        for event in [*[chunk] * count, {"model": body["model"], "choices": [], "usage": usage}]:
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
