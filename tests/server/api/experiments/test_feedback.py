"""`POST /v1/feedback`, and experiments that it decides."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.experiment_traffic import recorded, start, user_of
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("feedback"), tiny_base, keys=("key-1", "key-2")) as tiny:
        tiny.http.headers["authorization"] = "Bearer key-1"
        await tiny.add("tone")
        yield tiny


async def ask(tiny: TinyServer, model: str = "tone", user: str | None = None) -> str:
    """Return the request's id."""
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "user": user}
    return str((await tiny.http.post("/v1/chat/completions", json=body)).headers["x-request-id"])


async def give(tiny: TinyServer, request_id: str, key: str = "key-1", **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return await tiny.http.post("/v1/feedback", json={"request_id": request_id} | body, headers=headers)


async def test_feedback_is_stored_with_the_route_of_its_request(tiny: TinyServer) -> None:
    for model, label in (("tone", "good"), ("tone", "bad"), (tiny.server.base_name, "good")):
        given = await give(tiny, await ask(tiny, model), label=label)
        assert given.status_code == 200, given.text
        assert given.json()["experiment"] is None
    shown = (await tiny.http.get("/admin/feedback")).json()["data"]
    assert [(row["route"], row["adapter"], row["requests"], row["mean"]) for row in shown] == [
        ("adapter", "tone", 2, 0.5),
        ("base", None, 1, 1.0),
    ]


async def test_of_two_feedbacks_on_a_request_the_later_one_counts(tiny: TinyServer) -> None:
    since = time.time()
    request_id = await ask(tiny)
    for score in (0.25, 0.75):
        assert (await give(tiny, request_id, score=score)).json()["score"] == score
    [row] = (await tiny.http.get(f"/admin/feedback?since={since}")).json()["data"]
    assert (row["requests"], row["mean"]) == (1, 0.75)


async def test_feedback_can_not_be_changed_after_an_hour(tiny: TinyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = await ask(tiny)
    await give(tiny, request_id, label="good")
    service = tiny.server.experimentation.parts.feedback
    later = time.time() + 3601
    monkeypatch.setattr(service, "_now", lambda: later)
    refused = await give(tiny, request_id, label="bad")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "feedback_closed")


async def test_another_keys_requests_and_unknown_ones_are_not_found(tiny: TinyServer) -> None:
    request_id = await ask(tiny)
    for missing in (await give(tiny, request_id, "key-2", label="bad"), await give(tiny, "req_none", label="bad")):
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "request_not_found")


async def test_a_request_is_found_in_the_ledger_after_a_restart(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    request_id = await ask(tiny)
    await recorded(tiny, experiment, 1)
    await tiny.http.delete(f"/admin/experiments/{experiment['id']}")
    tiny.server.usage_recorder._writer.flush()
    tiny.server.experimentation.parts.feedback.recent._requests.clear()
    given = await give(tiny, request_id, label="good")
    assert (given.status_code, given.json()["experiment"]) == (200, experiment["id"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"score": 0.5, "label": "good"},
        {"score": -0.1},
        {"score": 1.1},
        {"score": "much"},
        {"label": "great"},
        {"score": 1, "comment": "unknown field"},
        {"score": None, "label": None},
    ],
)
async def test_invalid_feedback_is_refused(tiny: TinyServer, body: dict[str, Any]) -> None:
    assert (await give(tiny, "req_1", **body)).status_code == 400


@pytest.mark.parametrize("request_id", ["", "x" * 65, "\x00", "'; DROP TABLE feedback; --", "\ud800"])
async def test_an_id_that_no_request_has_is_refused(tiny: TinyServer, request_id: str) -> None:
    content = json.dumps({"request_id": request_id, "label": "good"})
    headers = {"content-type": "application/json"}
    assert (await tiny.http.post("/v1/feedback", content=content, headers=headers)).status_code in (400, 404)


async def test_nan_and_large_bodies_are_refused(tiny: TinyServer) -> None:
    headers = {"content-type": "application/json"}
    nan = await tiny.http.post("/v1/feedback", content='{"request_id": "r", "score": NaN}', headers=headers)
    assert nan.status_code == 400
    large = await tiny.http.post("/v1/feedback", json={"request_id": "r", "label": "x" * 5000})
    assert large.status_code == 413


async def test_the_rate_of_feedback_is_limited_per_key(tiny: TinyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    service = tiny.server.experimentation.parts.feedback
    monkeypatch.setattr(service, "_now", lambda: 10_000_000_000.0)
    answers = [(await give(tiny, "req_none", "key-2", label="bad")).status_code for _ in range(102)]
    assert answers[:100] == [404] * 100
    assert answers[100:] == [429] * 2


async def test_feedback_decides_an_experiment_and_failures_score_nothing(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    tiny.server.experimentation.parts.feedback._buckets.clear()
    users = [user_of(experiment, variant, number) for number in range(15) for variant in ("adapter", "baseline")]
    for place, user in enumerate(users):
        request_id = await ask(tiny, user=user)
        await give(tiny, request_id, label="bad" if place % 2 else "good")
    shown = await recorded(tiny, experiment, len(users))
    assert shown["report"]["verdict"] == "better"
    assert shown["report"]["challenger"]["scored_units"] == 15
    await tiny.http.delete(f"/admin/experiments/{experiment['id']}")


async def test_only_a_users_first_scored_request_counts(tiny: TinyServer) -> None:
    experiment = await start(tiny)
    user = user_of(experiment, "adapter")
    ids = [await ask(tiny, user=user) for _ in range(3)]
    await give(tiny, ids[1], score=0.5)
    await give(tiny, ids[2], score=1)
    shown = await recorded(tiny, experiment, 3)
    assert shown["report"]["challenger"]["scored_units"] == 1
    assert shown["report"]["challenger"]["score"]["estimate"] == 0.5
    await tiny.http.delete(f"/admin/experiments/{experiment['id']}")
