"""Versions over HTTP: routing while a name changes, and errors of versions that are not served."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.models import AdapterName, VersionId, VersionState
from loramux_adapters.registry.transaction import ChangedBy
from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

TONE = AdapterName("support-tone")
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the shared server


@pytest_asyncio.fixture(loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path: Path) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that leave it as it was, except for adapters with names of their own."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base) as server:
        yield server


async def two_versions(tiny: TinyServer, name: str = TONE) -> tuple[VersionId, VersionId]:
    """An adapter with two versions, whose name points at the second."""
    first, second = await tiny.add(name, seed=1), await tiny.add(name, seed=2)
    return VersionId.parse(first), VersionId.parse(second)


async def split_evenly(tiny: TinyServer) -> tuple[VersionId, VersionId]:
    """Let TONE point at two versions in equal shares."""
    first, second = await two_versions(tiny)
    await tiny.server.adapter_service.set_alias(TONE, {first.digest: 1, second.digest: 1}, actor="test")
    return first, second


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def split(shared: TinyServer) -> TinyServer:
    """The shared server, on which TONE is split evenly."""
    await split_evenly(shared)
    return shared


@pytest.mark.slow
async def test_promotions_and_rollbacks_under_load_fail_no_request_and_mix_no_answer(tiny: TinyServer) -> None:
    first, second = await two_versions(tiny)
    tiny.engine.seconds_per_token = 0.001
    service, seen = tiny.server.adapter_service, Counter[str]()

    async def ask(number: int) -> None:
        await asyncio.sleep(number / 100)  # so that they begin between all the flips
        if number % 2:
            chunks = [chunk async for chunk in await tiny.chat(TONE, stream=True, max_tokens=60)]
            models = {chunk.model for chunk in chunks}
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        else:
            answer = await tiny.chat(TONE, max_tokens=60)
            models, text = {answer.model}, answer.choices[0].message.content
        (model,) = models
        assert text.startswith(f"[{model}] 0 1 2")
        seen[model] += 1

    async def flip() -> None:
        for number in range(50):
            if number % 2:
                await service.roll_back(TONE, actor="test")
            else:
                await service.set_alias(TONE, {first.digest: 1.0}, actor="test")
            await asyncio.sleep(0.02)

    flipping = asyncio.create_task(flip())
    await asyncio.gather(*(ask(number) for number in range(200)))
    await flipping
    assert seen.keys() == {str(first), str(second)}
    assert service.resolver.resolve(TONE) == second


@pytest.mark.slow
async def test_a_canary_gets_its_share_and_each_user_one_version(tiny: TinyServer) -> None:
    first, second = await split_evenly(tiny)
    users = [f"user-{number}" for number in range(20)]
    rounds = [[(await tiny.chat(TONE, user=user)).model for user in users] for _ in range(2)]
    assert rounds[0] == rounds[1]
    assert set(rounds[0]) == {str(first), str(second)}
    anybody = {(await tiny.chat(TONE)).model for _ in range(20)}
    assert anybody == {str(first), str(second)}


def asking(path: str, model: str) -> dict[str, Any]:
    """Return a body to which `path` responds with four tokens."""
    if path == "/v1/responses":
        return {"model": model, "input": "x", "max_output_tokens": 4}
    return {"model": model, "messages": [{"role": "user", "content": "x"}], "prompt": "x", "max_tokens": 4}


USERS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"user": "USER"}),
    ("/v1/chat/completions", {"safety_identifier": "USER"}),
    ("/v1/completions", {"user": "USER"}),
    ("/v1/responses", {"user": "USER"}),
    ("/v1/messages", {"metadata": {"user_id": "USER"}}),
]


@pytest.mark.parametrize(("path", "named"), USERS)
async def test_an_end_user_is_read_from_every_field_that_clients_use(
    split: TinyServer, path: str, named: dict[str, Any]
) -> None:
    for user in ("ann", "bob", "eve", "mallory"):
        fields = {key: user if value == "USER" else {"user_id": user} for key, value in named.items()}
        answers = [await split.http.post(path, json=asking(path, TONE) | fields) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        expected = split.server.adapter_service.resolver.resolve(TONE, user)
        assert {answer.json()["model"] for answer in answers} == {str(expected)}


async def test_without_a_user_the_key_decides(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    async with tiny_server(tmp_path, tiny_base, keys=("secret-1",)) as tiny:
        await split_evenly(tiny)
        assert len({(await tiny.chat(TONE)).model for _ in range(10)}) == 1


@pytest.mark.parametrize("user", [None, 7, "", [], {"id": "x"}, "\ud800", "x" * 100_000])
async def test_an_unusual_end_user_is_never_an_internal_error(split: TinyServer, user: Any) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages"):
        for field in ("user", "safety_identifier", "metadata"):
            content = json.dumps(asking(path, TONE) | {field: user}).encode()
            answer = await split.http.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize("body", [b"[]", b"7", b'"x"', b"null", b"{", b"\xff", b"[" * 50_000])
async def test_a_body_that_is_not_an_object_is_a_400(shared: TinyServer, body: bytes) -> None:
    answer = await shared.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_a_quarantined_version_is_reported_and_the_others_are_served(shared: TinyServer, stream: bool) -> None:
    name, neighbour = AdapterName(f"quarantined-{stream}"), f"neighbour-{stream}"
    first, second = await two_versions(shared, name)
    other = await shared.add(neighbour, seed=3)
    shared.server.adapter_service.quarantine(second, "it computed NaN or infinite values")
    for model in (name, str(second)):
        with pytest.raises(openai.InternalServerError) as caught:
            await shared.chat(model, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (503, "adapter_quarantined")
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in caught.value.response.headers
    for asked, model in (("tiny", "tiny"), (neighbour, other), (str(first), str(first))):
        assert (await shared.chat(asked)).model == model
    listed = [model["id"] for model in (await shared.http.get("/v1/models")).json()["data"]]
    assert [model for model in listed if model.partition("@")[0] in ("tiny", name, neighbour)] == ["tiny", neighbour]
    await shared.server.adapter_service.roll_back(name, actor="test")
    assert (await shared.chat(name)).model == str(first)


async def test_a_version_that_is_not_ready_is_distinguished_from_an_unknown_one(shared: TinyServer) -> None:
    name = AdapterName("not-ready")
    version = VersionId.parse(await shared.add(name))
    service = shared.server.adapter_service
    service.registry.set_state(version, VersionState.QUARANTINED, ChangedBy("test", 1.0), reason="x")
    await service.pin(name, pinned=False, actor="test")  # any change, so that memory learns it
    rereads = await shared.http.get(f"/v1/models/{version}")
    assert rereads.status_code == 404
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize"):
        answer = await shared.http.post(path, json=asking(path, str(version)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "adapter_quarantined"), path


async def test_requests_that_wait_for_a_version_which_is_removed_get_404(
    shared: TinyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await shared.add(f"waiting-{number}", seed=number)
    monkeypatch.setattr(shared.engine, "seconds_per_token", 0.02)
    running = [asyncio.create_task(shared.chat(f"waiting-{number}")) for number in range(2)]
    await asyncio.sleep(0.2)
    waiting = [asyncio.create_task(shared.chat("waiting-2", stream=stream)) for stream in (False, True)]
    await asyncio.sleep(0.05)
    await shared.server.adapter_service.remove(AdapterName("waiting-2"), actor="test")
    for task in waiting:
        with pytest.raises(openai.NotFoundError) as caught:
            await task
        assert caught.value.code == "model_not_found"
    await asyncio.gather(*running)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["changed", "deleted"])
async def test_weights_that_changed_on_disk_never_run_and_affect_no_other_adapter(
    tiny: TinyServer, damage: str
) -> None:
    first, second = await two_versions(tiny)
    weights = tiny.server.adapter_service.resolver.path(second) / WEIGHTS_FILE
    if damage == "deleted":
        weights.unlink()
    else:
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    tiny.server.adapter_service.pool.discard(second)
    with pytest.raises(openai.APIStatusError) as caught:
        await tiny.chat(TONE)
    assert caught.value.status_code >= 500
    assert str(second) not in tiny.engine.loaded.values()
    with pytest.raises(openai.APIStatusError) as caught:
        await tiny.chat(TONE)
    assert caught.value.code == "adapter_quarantined"
    assert (await tiny.chat(str(first))).model == str(first)
    assert (await tiny.chat("tiny")).model == "tiny"
    assert await tiny.add(TONE, seed=2) == str(second)  # accepted again, the store is whole again
    assert (await tiny.chat(TONE)).model == str(second)
