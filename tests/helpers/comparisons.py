"""Comparisons without a server, and a server that labels traffic lights."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from loramux_adapters.evaluation.items import Item
from loramux_adapters.evaluation.scorers.texts import LabelScorer
from loramux_loadtests.compare.answer_log import MeasuredAnswer, ScoredAnswer
from loramux_loadtests.compare.costs import ComparisonPrices
from loramux_loadtests.compare.plan import Arm, Comparison

LABELS = {"red": "stop", "green": "go"}
SCORER = LabelScorer(type="label", labels=frozenset(LABELS.values()))
TUNED, PROMPTED = "tuned", "prompted"


def chat(*contents: str) -> list[dict[str, str]]:
    return [dict(zip(("role", "content"), content.split(": ", 1), strict=True)) for content in contents]


def comparison(url: str = "http://127.0.0.1:1", count: int = 12, prices: ComparisonPrices | None = None) -> Comparison:
    colours = [*LABELS] * (count // 2)
    items = [Item(chat(f"user: {colour} {number}"), LABELS[colour]) for number, colour in enumerate(colours)]
    arms = [
        Arm(PROMPTED, "tiny", chat("system: rules", "user: red", "assistant: stop"), url),
        Arm(TUNED, "lights", chat("system: label"), url),
    ]
    return Comparison("lights", items, "data", arms, TUNED, PROMPTED, SCORER, 4, prices)


def scored_answer(arm: str, item: int, score: float = 1.0, **changes: Any) -> ScoredAnswer:
    values: dict[str, Any] = {
        "pass_": "warm", "arm": arm, "item": item, "text": "stop", "scores": {"accuracy": score, "exact": score},
        "input_tokens": 10 if arm == TUNED else 500, "cached_tokens": 0, "output_tokens": 2, "ttft": 0.1, "tpot": 0.01,
        "seconds": 0.2,
    }  # fmt: skip
    return ScoredAnswer(**values | changes)


def measured_answer(arm: str, item: int, **changes: Any) -> MeasuredAnswer:
    return MeasuredAnswer(**scored_answer(arm, item, **changes).model_dump(exclude={"scores", "error"}))


def scored_answers(tuned: Sequence[float], prompted: Sequence[float]) -> list[ScoredAnswer]:
    return [
        scored_answer(arm, item, score)
        for arm, scores in ((TUNED, tuned), (PROMPTED, prompted))
        for item, score in enumerate(scores)
    ]


class TrafficLightServer:
    """A server whose adapter is always right, and whose base answers `stop` to every prompt."""

    def __init__(self, fails_after: int = 1000, status: int = 500, takes: float = 0.0) -> None:
        self.requests: list[dict[str, Any]] = []
        self.api_keys: set[str | None] = set()
        self.concurrent_models: set[tuple[str, ...]] = set()
        """The models of the requests that were active at the same time."""
        self.fails_after, self.status, self.seconds = fails_after, status, takes
        self._active: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self.api_keys.add(request.headers.get("Authorization"))
        self._active.append(body["model"])
        self.concurrent_models.add(tuple(self._active))
        await asyncio.sleep(self.seconds)
        self._active.remove(body["model"])
        if len(self.requests) > self.fails_after:
            error = {"message": f"The model {body['model']} does not exist."}
            return web.json_response({"error": error}, status=self.status)
        colour = body["messages"][-1]["content"].split()[0]
        label = LABELS[colour] if body["model"] == "lights" else "stop"
        usage = {"prompt_tokens": 10 * len(body["messages"]), "completion_tokens": 1}
        lines = (
            {"choices": [{"index": 0, "delta": {"content": label}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        )
        stream = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        return web.Response(text=stream, content_type="text/event-stream")

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "lights", "parent": "tiny"}, {"id": "tiny", "parent": None}]})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        app.router.add_get("/v1/models", self.models)
        async with TestServer(app) as server:
            yield str(server.make_url("/")).rstrip("/")


def write_example(folder: Path) -> Path:
    """Write the folder of an example: an adapter that labels colours, with 24 held-out items."""
    path = folder / "lights"
    path.mkdir()
    items = [
        chat("system: forget me", f"user: {colour} {i}", f"assistant: {LABELS[colour]}")
        for i in range(12)
        for colour in LABELS
    ]
    (path / "test.jsonl").write_text("".join(json.dumps({"messages": item}) + "\n" for item in items))
    (path / "prompt_short.json").write_text(json.dumps(chat("system: label")))
    (path / "prompt_few_shot.json").write_text(json.dumps(chat("system: rules", "user: red", "assistant: stop")))
    (path / "compare.yaml").write_text("scorer: {type: label, labels: [stop, go]}\nmax_tokens: 4\n")
    return path
