"""A server that answers chat requests with `max_tokens` chunks: `python fake_openai_server.py PORT [MODE]`.

It accepts adapters over the APIs of loramux and of stock vLLM. MODE is a fault: `dies` before it is ready, `orphans`
leaves a child process, `stubborn` ignores SIGTERM, `short` answers one token less, `halts` blocks all streams while it
"loads" a new model, `trusting` accepts adapters with NaN and then answers differently, `wary` rejects uploads and
adapters, `fails` and `endless` are fine-tuning jobs, `keeps FILE` stores its adapters in FILE.
"""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

PORT, MODE = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
NAN = b"\x00\x00\xc0\x7f"
"""A float32 NaN, as numpy writes it."""
STEP_S, HALT_S = 0.004, 0.2

STATE_FILE = Path(MODE.removeprefix("keeps ")).with_suffix(".json") if MODE.startswith("keeps ") else None
adapters: dict[str, Path] = json.loads(STATE_FILE.read_text()) if STATE_FILE and STATE_FILE.exists() else {}
seen: set[str] = set()
engine_step = asyncio.Lock()
poisoned = False


async def health(request: web.Request) -> web.Response:
    return web.Response()


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    count = body["max_tokens"] - (MODE == "short")
    events: list[dict[str, Any]] = [{"choices": [{"delta": {"content": "yx"[not poisoned]}}]} for _ in range(count)]
    if body["model"].startswith("ft:"):  # a trained adapter answers with the last word of the question
        events[0]["choices"][0]["delta"]["content"] = body["messages"][-1]["content"].split()[-1]
        del events[1:]
    for event in [*events, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": count}}]:
        if MODE == "halts":
            await step(body["model"])
        await response.write(f"data: {json.dumps(event)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


async def complete(request: web.Request) -> web.Response:
    body = await request.json()
    if MODE == "halts":
        await step(body["model"])
    return web.json_response({"choices": [{"text": "x"}], "usage": {"completion_tokens": 1}})


async def step(model: str) -> None:
    async with engine_step:
        await asyncio.sleep(STEP_S if model in seen else HALT_S)
        seen.add(model)


async def add(request: web.Request) -> web.Response:
    global poisoned
    if MODE == "wary":
        return web.json_response({"error": {"message": "not allowed"}}, status=403)
    body = await request.json()
    name, path = body.get("name") or body["lora_name"], body.get("lora_path") or body["source"]["path"]
    bad = NAN in (Path(path) / "adapter_model.safetensors").read_bytes()
    if bad and MODE != "trusting":
        return web.json_response({"error": {"message": f"{path}: a value is NaN"}}, status=400)
    poisoned = poisoned or bad
    adapters[name] = Path(path)
    if STATE_FILE:
        STATE_FILE.write_text(json.dumps({name: str(path) for name, path in adapters.items()}))
    return web.json_response({}, status=201)


async def accept(request: web.Request) -> web.Response:
    return web.Response()


async def models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": name} for name in ["base", *adapters]]})


async def metrics(request: web.Request) -> web.Response:
    return web.Response(text=f"process_resident_memory_bytes {1e8 + 1e6 * len(adapters)}\n")


jobs: dict[str, dict[str, Any]] = {}


async def upload(request: web.Request) -> web.Response:
    form = await request.post()
    if MODE == "wary" or form["purpose"] != "fine-tune":
        return web.json_response({"error": {"message": "line 1: messages"}}, status=400)
    return web.json_response({"id": "file-1"})


async def create(request: web.Request) -> web.Response:
    body = await request.json()
    ours: dict[str, Any] = {
        "step": 0,
        "steps": 6,
        "tokens": 0,
        "seconds": 0.0,
        "tokens_per_second": 10.0,
        "trained_share": 0.007,
    }
    ours |= {"examples": 12, "recipe": {"rank": 8, "last_layers": None}}
    state = {"status": "running", "error": None, "finished_at": None, "fine_tuned_model": f"ft:{body['model']}:x"}
    jobs["ftjob-1"] = {"id": "ftjob-1", "loramux": ours} | state
    return web.json_response(jobs["ftjob-1"])


async def job(request: web.Request) -> web.Response:
    found = jobs[request.match_info["job"]]
    ours = found["loramux"]
    if found["status"] == "running":
        ours |= {"step": ours["step"] + 1, "tokens": ours["tokens"] + 10, "seconds": ours["seconds"] + 1.0}
        if MODE == "fails":
            found |= {"status": "failed", "finished_at": 1, "error": {"message": "no memory"}}
        elif ours["step"] == ours["steps"] and MODE != "endless":
            found |= {"status": "succeeded", "finished_at": 1}
    return web.json_response(found)


async def move(request: web.Request) -> web.Response:
    status = {"pause": "paused", "resume": "running", "cancel": "cancelled"}[request.match_info["verb"]]
    jobs[request.match_info["job"]]["status"] = status
    return web.json_response(jobs[request.match_info["job"]])


if MODE == "dies":
    sys.exit("no engine today")
if MODE == "orphans":
    subprocess.Popen(["sleep", "60"])
app = web.Application()
app.router.add_get("/health", health)
app.router.add_post("/v1/chat/completions", chat)
app.router.add_post("/v1/completions", complete)
app.router.add_post("/admin/adapters", add)
app.router.add_post("/v1/load_lora_adapter", add)
app.router.add_delete("/admin/adapters/{name}", accept)
app.router.add_put("/admin/adapters/{name}/pin", accept)
app.router.add_post("/v1/unload_lora_adapter", accept)
app.router.add_get("/v1/models", models)
app.router.add_post("/v1/files", upload)
app.router.add_post("/v1/fine_tuning/jobs", create)
app.router.add_get("/v1/fine_tuning/jobs/{job}", job)
app.router.add_post("/v1/fine_tuning/jobs/{job}/{verb}", move)
app.router.add_get("/metrics", metrics)
if MODE == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
web.run_app(app, host="127.0.0.1", port=PORT, handle_signals=MODE != "stubborn", print=None)
