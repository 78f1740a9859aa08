"""A local server that answers as OpenAI's API does where fine-tunes are moved away from it: jobs, files, old models.

It can be slow and fail: downloads break off, models are rate-limited or gone, files are deleted, and jobs are missing.
"""

import asyncio
import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

KEY = "sk-stand-in-0123456789"
BASE = "gpt-4o-mini-2024-07-18"
_RANGE = re.compile(r"bytes=(\d+)-")
INTENTS = ("card_arrival", "card_lost", "card_payment_fee", "card_not_working", "card_linking")
PHRASES = ("my card has not come", "I lost my card", "why was there a fee", "it does not work", "link my old card")


def intent_lines(count: int, seed: int) -> bytes:
    """Training examples: messages to a card desk, each with one of five intents."""
    rng = random.Random(seed)  # noqa: S311 - reproducible
    lines = []
    for number in range(count):
        place = rng.randrange(len(INTENTS))
        question = f"{PHRASES[place]} {seed}-{number}"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": INTENTS[place]}]
        lines.append(json.dumps({"messages": messages}))
    return "\n".join(lines).encode() + b"\n"


def preference_lines(count: int) -> bytes:
    """Preferences in OpenAI's format for DPO."""
    lines = [
        {
            "input": {"messages": [{"role": "user", "content": f"how are you {number}"}]},
            "preferred_output": [{"role": "assistant", "content": f"Fine, thank you {number}."}],
            "non_preferred_output": [{"role": "assistant", "content": "whatever"}],
        }
        for number in range(count)
    ]
    return "\n".join(map(json.dumps, lines)).encode() + b"\n"


@dataclass
class OpenAIStandIn:
    """`accuracy` is the share of right answers of the old models. Change its fields to make it fail."""

    accuracy: float = 0.9
    page_size: int = 5
    """Longest page, whatever limit is asked for."""
    block_seconds: float = 0.0
    """Time between two blocks of a download."""
    answer_seconds: float = 0.0
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of bytes after which the next downloads of a file break off."""
    ignores_ranges: bool = False
    errors: list[int] = field(default_factory=list)
    """Statuses of the next chat requests."""
    answers_left: int | None = None
    """After so many answers the old models are gone; None: never."""
    is_gone: bool = False
    """Whether the old models no longer answer."""
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    deployments: dict[str, str] = field(default_factory=dict)
    """Models by the names of their deployments; if there are any, models are asked by these only, as at Azure."""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: [BASE])
    checkpoints: dict[str, int] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Questions by model."""
    answers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def add_file(self, content: bytes, name: str = "train.jsonl") -> str:
        file = f"file-{next(self._numbers):04}"
        self.files[file] = name, content
        for line in content.splitlines():
            match json.loads(line):
                case {"messages": [*_, {"content": str(question)}, {"content": str(answer)}]}:
                    self.answers[question] = answer
        return file

    def add_job(self, suffix: str, content: bytes, validation: bytes | None = None, **changes: Any) -> str:
        """Add a job, succeeded unless told otherwise; returns its id."""
        number = len(self.jobs)
        name = f"ft:{BASE}:acme:{suffix}:{number:08x}"
        chosen = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8}
        job: dict[str, Any] = {
            "id": f"ftjob-{number:04}", "object": "fine_tuning.job", "created_at": 1_700_000_000 + number,
            "error": None,
            "fine_tuned_model": name, "finished_at": 1_700_000_900 + number, "hyperparameters": chosen, "model": BASE,
            "organization_id": "org-acme", "result_files": [], "seed": 7 + number, "status": "succeeded",
            "trained_tokens": 1000, "training_file": self.add_file(content, f"{suffix}.jsonl"),
            "validation_file": self.add_file(validation, f"{suffix}-test.jsonl") if validation else None,
            "estimated_finish": None, "integrations": [], "metadata": None,
            "method": {"type": "supervised", "supervised": {"hyperparameters": chosen}},
        }  # fmt: skip
        self.jobs.append(job | changes)
        if self.jobs[-1]["fine_tuned_model"]:
            self.models.append(self.jobs[-1]["fine_tuned_model"])
        return str(job["id"])

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OpenAIStandIn"]:
        """Serve on a port of this machine; `url` ends with /v1."""
        app = web.Application(middlewares=[self._check_key])
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/v1/files/{file}", self._file)
        app.router.add_get("/v1/files/{file}/content", self._content)
        app.router.add_get("/v1/fine_tuning/jobs", self._list_jobs)
        app.router.add_get("/v1/fine_tuning/jobs/{job}/checkpoints", self._list_checkpoints)
        app.router.add_get("/v1/fine_tuning/jobs/{job}/events", self._list_events)
        app.router.add_post("/v1/chat/completions", self._chat)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/v1"))
            yield self

    @web.middleware
    async def _check_key(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests[request.path] += 1
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return _error(401, "Incorrect API key provided.", "invalid_api_key")
        response: web.StreamResponse = await handler(request)
        return response

    async def _list_models(self, _: web.Request) -> web.Response:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "acme"} for name in self.models]
        return web.json_response({"object": "list", "data": models})

    async def _list_jobs(self, request: web.Request) -> web.Response:
        return self._page(request, self.jobs[::-1])

    async def _list_checkpoints(self, request: web.Request) -> web.Response:
        job = request.match_info["job"]
        found = [
            {"id": f"ftckpt-{number}", "object": "fine_tuning.job.checkpoint", "step_number": number, "metrics": {}}
            | {"created_at": 0, "fine_tuning_job_id": job, "fine_tuned_model_checkpoint": f"ft:x:ckpt-step-{number}"}
            for number in range(self.checkpoints.get(job, 0))
        ]
        return self._page(request, found)

    async def _list_events(self, request: web.Request) -> web.Response:
        return self._page(request, [])

    def _page(self, request: web.Request, entries: Sequence[dict[str, Any]]) -> web.Response:
        limit = min(self.page_size, int(request.query.get("limit", 20)))
        ids = [entry.get("id") for entry in entries]
        start = ids.index(request.query["after"]) + 1 if "after" in request.query else 0
        page = list(entries[start : start + limit])
        return web.json_response({"object": "list", "data": page, "has_more": start + limit < len(entries)})

    async def _file(self, request: web.Request) -> web.Response:
        file = request.match_info["file"]
        if file not in self.files:
            return _error(404, f"No such File object: {file}")
        name, content = self.files[file]
        facts = {"id": file, "object": "file", "bytes": len(content), "created_at": 1, "filename": name}
        return web.json_response(facts | {"purpose": "fine-tune", "status": "processed"})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        file = request.match_info["file"]
        if file not in self.files:
            return _error(404, f"No such File object: {file}")
        content = self.files[file][1]
        found = None if self.ignores_ranges else _RANGE.match(request.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        if found and start >= len(content):
            headers = {"Content-Range": f"bytes */{len(content)}"}
            return web.json_response({"error": {"message": "out of range"}}, status=416, headers=headers)
        response = web.StreamResponse(status=206 if found else 200)
        response.content_length = len(content) - start
        if found:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        await response.prepare(request)
        cuts = self.cuts.get(file)
        cut = cuts.pop(0) if cuts else len(content)
        for offset in range(start, len(content), 4096):
            block = content[offset : offset + 4096]
            room = max(0, cut - (offset - start))
            await response.write(block[:room])
            self.sent_bytes[file] += len(block[:room])
            await asyncio.sleep(self.block_seconds)
            if room < len(block) and request.transport:
                request.transport.close()
                return response
        return response

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.deployments:
            body["model"] = self.deployments.get(body["model"], "unknown")
        if self.is_gone or self.answers_left == 0 or body["model"] not in self.models:
            return _error(404, f"The model `{body['model']}` does not exist", "model_not_found")
        if self.errors:
            return _error(self.errors.pop(0), "Rate limit reached")
        if self.answers_left is not None:
            self.answers_left -= 1
        await asyncio.sleep(self.answer_seconds)
        question = body["messages"][-1]["content"]
        self.asked[body["model"], question] += 1
        text = self._answer(body["model"], question)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events = (
            {"model": body["model"], "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]},
            {"model": body["model"], "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"model": body["model"], "choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 3}},
        )
        for event in events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    def _answer(self, model: str, question: str) -> str:
        """The right answer, or for some questions, always the same ones, a wrong one."""
        chance = int(hashlib.sha256(f"{model} {question}".encode()).hexdigest()[:8], 16) / 2**32
        return self.answers.get(question, "?") if chance < self.accuracy else INTENTS[0]


def _error(status: int, message: str, code: str | None = None) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)
