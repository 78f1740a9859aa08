"""Experiments on a tiny server, and requests of their users."""

import asyncio
from hashlib import sha256
from typing import Any

from loramux_server.experiments.models import Experiment
from tests.helpers.tiny_server import TinyServer

STYLE: dict[str, Any] = {"type": "scorer", "scorer": {"type": "style", "rules": {"tone": {"match": "tone"}}}}
"""A measure that is met by the answers of the adapter `tone` on the fake engine, and by no others."""


async def start(tiny: TinyServer, **body: Any) -> dict[str, Any]:
    asked = {"adapter": "tone", "baseline": {}, "share": 0.5, "quality": {"type": "feedback"}} | body
    if asked.get("candidate"):
        del asked["baseline"]
    response = await tiny.http.post("/admin/experiments", json=asked)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def chat(tiny: TinyServer, user: str | None = None, model: str = "tone", **options: Any) -> tuple[str, Any]:
    """Return the variant that answered, and the completion."""
    messages = options.pop("messages", [{"role": "user", "content": "hello"}])
    asked: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 20} | options
    asked |= {} if user is None else {"user": user}
    raw: Any = await tiny.client.chat.completions.with_raw_response.create(**asked)
    return raw.headers.get("x-loramux-experiment", ""), raw.parse()


async def recorded(tiny: TinyServer, experiment: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the experiment once `count` requests are recorded; they are charged shortly after their end."""
    service = tiny.server.experimentation.service
    for _ in range(100):
        tiny.server.usage_recorder.meter.charge_ended()
        await service.tick()
        stored = service.repository.observations(experiment["id"], with_feedback=False)
        if len(stored) >= count:
            break
        await asyncio.sleep(0.01)
    service._reports.clear()
    await service.tick()
    return dict((await tiny.http.get(f"/admin/experiments/{experiment['id']}")).json())


async def stored(tiny: TinyServer, experiment_id: str) -> Experiment:
    return await tiny.server.experimentation.service.get(experiment_id)


def user_of(experiment: dict[str, Any], variant: str, number: int = 0) -> str:
    """Return a user who is assigned to a variant, the `number`-th one of many names."""
    found = [name for name in map("user-{}".format, range(2000)) if _is_assigned(experiment, variant, name)]
    return found[number]


def _is_assigned(experiment: dict[str, Any], variant: str, user: str) -> bool:
    digest = sha256(f"{experiment['id']}\0{user}".encode()).digest()
    is_sampled: bool = int.from_bytes(digest[:8]) / 2**64 < experiment["share"]
    return is_sampled is bool(variant == experiment["sampled"])
