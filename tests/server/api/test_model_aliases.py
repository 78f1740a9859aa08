"""Model aliases over HTTP, with OpenAI's client, on the fake engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.api_client import ApiClient
from loramux_server.cli.version_download import find_version
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the shared server

OLD = "ft:gpt-4o-mini-2024-07-18:acme:tone:abc123"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that use names of their own."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base, aliases={"gpt-4o": "tiny"}) as server:
        yield server


async def set_alias(tiny: TinyServer, name: str, target: object) -> tuple[int, dict[str, Any]]:
    response = await tiny.http.put(f"/admin/aliases/{name}", json={"target": target})
    content: dict[str, Any] = response.json()
    return response.status_code, content


async def refusal(tiny: TinyServer, method: str, path: str, body: object = None) -> tuple[int, str, str]:
    response = await tiny.http.request(method, path, json=body)
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


async def test_an_alias_is_answered_by_its_adapter_under_its_own_name(shared: TinyServer) -> None:
    version = await shared.add("tone")
    status, alias = await set_alias(shared, OLD, "tone")
    assert (status, alias["target"], alias["serves"], alias["source"]) == (200, "tone", "adapter", "api")
    answer = await shared.chat(OLD, max_tokens=40)
    assert answer.choices[0].message.content.startswith(f"[{version}]")
    assert answer.model == OLD
    stream = await shared.chat(OLD, stream=True)
    assert {chunk.model async for chunk in stream} == {OLD}


async def test_every_endpoint_takes_an_alias_of_the_base_and_of_an_adapter(shared: TinyServer) -> None:
    await shared.add("everywhere")
    await set_alias(shared, "old-everywhere", "everywhere")
    for model in ("gpt-4o", "old-everywhere"):
        messages = [{"role": "user", "content": "hello"}]
        bodies: dict[str, dict[str, object]] = {
            "/v1/completions": {"prompt": "hello", "max_tokens": 5},
            "/v1/responses": {"input": "hello", "max_output_tokens": 5},
            "/v1/messages": {"messages": messages, "max_tokens": 5},
        }
        for path, body in bodies.items():
            response = await shared.http.post(path, json={"model": model} | body)
            assert (response.status_code, response.json()["model"]) == (200, model), (path, response.text)
        for path, more in (("/tokenize", {"prompt": "hello"}), ("/v1/messages/count_tokens", {"messages": messages})):
            assert (await shared.http.post(path, json={"model": model} | more)).status_code == 200, path


async def test_a_request_without_a_model_is_still_the_base_s(shared: TinyServer) -> None:
    response = await shared.http.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3})
    assert (response.status_code, response.json()["model"]) == (200, "tiny")


async def test_promotion_split_and_rollback_work_through_an_alias_and_by_it(shared: TinyServer) -> None:
    old, new = await shared.add("canary", 1), await shared.add("canary", 2)
    await set_alias(shared, "old/canary", "canary")

    async def served(model: str) -> str:
        return str((await shared.chat(model, max_tokens=40)).choices[0].message.content).partition("]")[0][1:]

    assert await served("old/canary") == new
    digest = old.partition("@")[2]
    changed = await shared.http.put("/admin/adapters/old/canary/alias", json={"targets": [{"version": digest}]})
    assert changed.json()["name"] == "canary"
    assert await served("old/canary") == old
    targets = [{"version": f"old/canary@{old.partition('@')[2]}"}, {"version": new}]
    assert (await shared.http.put("/admin/adapters/old/canary/alias", json={"targets": targets})).status_code == 200
    both = [(user, model) for user in range(6) for model in ("canary", "old/canary")]
    answers = [
        (await shared.chat(model, max_tokens=40, user=f"u{user}")).choices[0].message.content for user, model in both
    ]
    assert answers[::2] == answers[1::2]
    await shared.http.post("/admin/adapters/old/canary/rollback")
    assert await served("canary") == old
    assert await served(f"old/canary@{new.partition('@')[2]}") == new


async def test_an_alias_of_a_version_stays_with_it(shared: TinyServer) -> None:
    old = await shared.add("kept", 1)
    await set_alias(shared, "kept-old", old)
    await shared.add("kept", 2)
    assert (await shared.chat("kept-old", max_tokens=40)).choices[0].message.content.startswith(f"[{old}]")
    status, code, message = await refusal(shared, "POST", "/admin/adapters/kept-old/rollback")
    assert (status, code) == (400, "alias_invalid")
    assert old in message


async def test_models_list_aliases_of_served_models_only(shared: TinyServer) -> None:
    await shared.add("listed")
    await set_alias(shared, "listed-old", "listed")
    models = {model["id"]: model for model in (await shared.http.get("/v1/models")).json()["data"]}
    assert [models["listed-old"][key] for key in ("root", "parent")] == ["listed", "tiny"]
    assert [models["gpt-4o"][key] for key in ("root", "parent")] == ["tiny", None]
    assert (await shared.client.models.retrieve("listed-old")).id == "listed-old"
    await shared.http.delete("/admin/adapters/listed")
    assert "listed-old" not in [model.id for model in (await shared.client.models.list()).data]
    listed = (await shared.http.get("/admin/aliases/listed-old")).json()
    assert (listed["target"], listed["serves"]) == ("listed", None)


async def test_a_request_for_an_alias_whose_target_is_gone_says_so(shared: TinyServer) -> None:
    await shared.add("gone")
    await set_alias(shared, "gone-old", "gone")
    await shared.http.delete("/admin/adapters/gone")
    with pytest.raises(openai.NotFoundError, match="`gone-old` is an alias of `gone`, which is not served") as caught:
        await shared.chat("gone-old")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert (await refusal(shared, "GET", "/admin/adapters/gone-old"))[:2] == (404, "model_not_found")


async def test_conflicts_are_refused_with_a_reason(shared: TinyServer) -> None:
    version = await shared.add("taken")
    await set_alias(shared, "taken-old", "taken")
    for name, target, status, code, words in (
        ("taken", "tiny", 409, "alias_conflict", "name of a model itself"),
        ("tiny", "taken", 409, "alias_conflict", "name of a model itself"),
        ("chain", "taken-old", 409, "alias_conflict", "alias itself: use its target, taken"),
        ("chain", version.replace("taken", "taken-old"), 409, "alias_conflict", "alias itself"),
        ("gpt-4o", "taken", 409, "alias_conflict", "settings"),
        ("nothing", "nobody", 404, "model_not_found", "`nobody` does not exist"),
        ("nothing", "taken@0123456789ab", 404, "model_not_found", "does not exist"),
        ("..", "taken", 404, None, ""),
        ("a b", "taken", 400, "adapter_name_invalid", "ASCII"),
        ("x" * 129, "taken", 400, "adapter_name_invalid", "128"),
        ("x@y", "taken", 400, "adapter_name_invalid", "ASCII"),
    ):
        found = await refusal(shared, "PUT", f"/admin/aliases/{name}", {"target": target})
        assert found[:2] == (status, code), (name, target, found)
        assert words in found[2]
    bodies: list[object] = [
        {},
        {"target": 1},
        {"target": ""},
        {"target": "x" * 161},
        {"target": "taken", "more": 1},
        [],
        None,
    ]
    for body in bodies:
        assert (await refusal(shared, "PUT", "/admin/aliases/bad", body))[0] == 400
    assert (await refusal(shared, "DELETE", "/admin/aliases/nobody"))[:2] == (404, "alias_not_found")
    assert (await refusal(shared, "GET", "/admin/aliases/nobody"))[:2] == (404, "alias_not_found")
    assert (await refusal(shared, "DELETE", "/admin/aliases/gpt-4o"))[:2] == (409, "alias_conflict")


async def test_an_alias_of_the_settings_says_that_a_model_has_its_name(tmp_path: Path, tiny_base: ResolvedBase) -> None:
    async with tiny_server(tmp_path, tiny_base) as server:
        own, other = await server.add("own", 1), await server.add("other", 2)
    async with tiny_server(tmp_path, tiny_base, aliases={"own": other, "free": other}) as server:
        listed = (await server.http.get("/admin/aliases")).json()["data"]
        assert {alias["name"]: alias["shadowed"] for alias in listed} == {"own": True, "free": False}
        client = ApiClient(server.url, None)
        assert "@".join(await asyncio.to_thread(find_version, client, "own")) == own
        assert "@".join(await asyncio.to_thread(find_version, client, "free")) == other


async def test_no_adapter_can_be_added_under_an_alias(shared: TinyServer) -> None:
    await shared.add("first")
    await set_alias(shared, "first-old", "first")
    path = str(shared.settings.allowed_roots[0] / "first-0")
    body = {"name": "first-old", "source": {"type": "folder", "path": path}}
    status, code, message = await refusal(shared, "POST", "/admin/adapters", body)
    assert (status, code) == (409, "adapter_exists")
    assert "loramux alias remove first-old" in message


async def test_an_adapter_is_not_removed_by_its_alias(shared: TinyServer) -> None:
    await shared.add("stays")
    await set_alias(shared, "stays-old", "stays")
    assert (await refusal(shared, "DELETE", "/admin/adapters/stays-old"))[0] == 400
    assert (await shared.client.models.delete("stays-old")).deleted
    assert (await shared.http.get("/admin/aliases/stays-old")).status_code == 404
    assert (await shared.http.get("/admin/adapters/stays")).status_code == 200
    trail = (await shared.http.get("/admin/audit?adapter=stays-old")).json()["data"]
    assert [(change["action"], change["before"], change["after"]) for change in trail] == [
        ("alias_remove", "stays", None),
        ("alias_set", None, "stays"),
    ]


async def test_usage_is_counted_for_the_target(shared: TinyServer) -> None:
    await shared.add("counted")
    await set_alias(shared, "counted-old", "counted")
    await shared.chat("counted-old")
    async with asyncio.timeout(10):
        while True:
            rows = (await shared.http.get("/admin/usage?adapter=counted")).json()["groups"]
            if rows:
                break
            await asyncio.sleep(0.02)
    assert "counted-old" not in str(rows)


async def test_an_experiment_runs_on_the_requests_for_an_alias(shared: TinyServer) -> None:
    await shared.add("tested")
    await set_alias(shared, "tested-old", "tested")
    body: dict[str, object] = {
        "adapter": "tested-old",
        "baseline": {"prompt": [{"role": "system", "content": "Be brief."}]},
        "share": 0.5,
        "quality": {"type": "feedback"},
    }
    started = await shared.http.post("/admin/experiments", json=body)
    assert (started.status_code, started.json()["adapter"]) == (201, "tested"), started.text
    raw = await shared.client.chat.completions.with_raw_response.create(
        model="tested-old", messages=[{"role": "user", "content": "hello"}], max_tokens=5
    )
    assert raw.headers["x-loramux-experiment"].startswith(started.json()["id"])
    assert raw.parse().model == "tested-old"
    await shared.http.delete(f"/admin/experiments/{started.json()['id']}")


async def test_the_name_of_an_unfinished_job_s_model_is_no_alias(shared: TinyServer) -> None:
    lines = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 20
    file = await shared.client.files.create(file=("train.jsonl", lines), purpose="fine-tune")
    job: Any = await shared.client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    status, code, message = await refusal(shared, "PUT", f"/admin/aliases/{job.loramux['model']}", {"target": "tiny"})
    assert (status, code) == (409, "alias_conflict")
    assert "cancel the job" in message
    await shared.client.fine_tuning.jobs.cancel(job.id)


async def test_without_an_admin_key_nothing_is_shown_or_changed(tmp_path: Path, tiny_base: ResolvedBase) -> None:
    async with tiny_server(tmp_path, tiny_base, keys=("sk-one",)) as tiny:
        for method, path in (("GET", ""), ("GET", "/x"), ("PUT", "/x"), ("DELETE", "/x")):
            answer = await tiny.http.request(method, f"/admin/aliases{path}", json={"target": "tiny"})
            assert answer.status_code == 401


async def test_aliases_survive_a_restart_and_are_shared_by_servers_on_one_database(
    tmp_path: Path, tiny_base: ResolvedBase
) -> None:
    async with tiny_server(tmp_path, tiny_base) as tiny:
        await set_alias(tiny, "gpt-4o-mini", "tiny")
    async with tiny_server(tmp_path, tiny_base) as one, tiny_server(tmp_path, tiny_base) as other:
        assert (await one.chat("gpt-4o-mini")).model == "gpt-4o-mini"
        await set_alias(one, "gpt-4", "tiny")
        await one.http.delete("/admin/aliases/gpt-4o-mini")
        await other.server.aliases.refresh()
        assert (await other.chat("gpt-4")).model == "gpt-4"
        with pytest.raises(openai.NotFoundError):
            await other.chat("gpt-4o-mini")
