"""A receiver of webhooks in this process: it records what arrives, and answers as it is told."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import openai
from aiohttp import web
from aiohttp.test_utils import TestServer
from openai.types.webhooks import UnwrapWebhookEvent

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"


async def accept(_: int) -> web.Response:
    return web.Response()


@dataclass
class Receiver:
    """`answer` gets the number of the request, from 0."""

    answer: Callable[[int], Awaitable[web.Response]] = accept
    requests: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)
    """Path, body and headers of each."""
    url: str = ""

    async def receive(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, await request.read(), dict(request.headers)))
        return await self.answer(len(self.requests) - 1)

    def events(self) -> list[UnwrapWebhookEvent]:
        """Return the events as OpenAI's client reads them, which checks their signatures."""
        client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
        return [client.webhooks.unwrap(body, headers) for _, body, headers in self.requests]

    async def until(self, count: int) -> None:
        """Wait until `count` requests have arrived."""
        async with asyncio.timeout(20):
            while len(self.requests) < count:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)

    async def event_of(self, job: str) -> UnwrapWebhookEvent:
        """Wait for the first event of a job."""
        for count in itertools.count(1):
            await self.until(count)
            if getattr(self.events()[count - 1].data, "id", None) == job:
                break
        return self.events()[count - 1]


@asynccontextmanager
async def receiving(answer: Callable[[int], Awaitable[web.Response]] = accept) -> AsyncIterator[Receiver]:
    """Listen on a free port while the context is active."""
    receiver = Receiver(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.receive)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(access_log=None)  # it would show URLs in the logs that tests read
    receiver.url = str(server.make_url("/hook"))
    try:
        yield receiver
    finally:
        await server.close()
