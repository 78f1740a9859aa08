"""A server that answers chat requests with `max_tokens` pieces: `python fake_server.py PORT [HABIT]`.

HABIT is a way to misbehave: `dies` before it is ready, `orphans` a child that outlives it, `stubborn` about SIGTERM,
`short` by one token.
"""

import json
import signal
import subprocess
import sys

from aiohttp import web

PORT, HABIT = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""


async def health(request: web.Request) -> web.Response:
    return web.Response()


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    count = body["max_tokens"] - (HABIT == "short")
    events = [{"choices": [{"delta": {"content": "x"}}]} for _ in range(count)]
    for event in [*events, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": count}}]:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


if HABIT == "dies":
    sys.exit("no engine today")
if HABIT == "orphans":
    subprocess.Popen(["sleep", "60"])
app = web.Application()
app.router.add_get("/health", health)
app.router.add_post("/v1/chat/completions", chat)
if HABIT == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
web.run_app(app, host="127.0.0.1", port=PORT, handle_signals=HABIT != "stubborn", print=None)
