"""API keys over HTTP, on the fake engine: made, listed, used, rotated and revoked."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the shared server

ROOT = "root-key"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server with an administrator's key in its settings."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base, keys=(ROOT,)) as server:
        yield server


async def ask(
    tiny: TinyServer, method: str, path: str, body: object = None, key: str = ROOT
) -> tuple[int, dict[str, Any]]:
    response = await tiny.http.request(method, path, json=body, headers={"authorization": f"Bearer {key}"})
    content: dict[str, Any] = response.json()
    return response.status_code, content


async def create(tiny: TinyServer, **grant: object) -> dict[str, Any]:
    status, issued = await ask(tiny, "POST", "/admin/keys", {"name": "app"} | grant)
    assert status == 200, issued
    return issued


async def chat(tiny: TinyServer, key: str) -> int:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    return (await ask(tiny, "POST", "/v1/chat/completions", body, key))[0]


async def test_a_new_key_works_and_is_shown_once(shared: TinyServer) -> None:
    issued = await create(shared, name="web site", project="shop", organisation="acme", models=["tiny", "shop-*"])
    secret = issued.pop("key")
    assert await chat(shared, secret) == 200
    assert secret.startswith(issued["secrets"][0]["prefix"])
    status, shown = await ask(shared, "GET", f"/admin/keys/{issued['id']}")
    assert (status, shown) == (200, issued)
    assert issued | {"created_at": 0, "secrets": [], "id": "", "created_by": ""} == {
        "id": "",
        "name": "web site",
        "status": "active",
        "scopes": ["infer"],
        "project": "shop",
        "organisation": "acme",
        "models": ["tiny", "shop-*"],
        "created_at": 0,
        "created_by": "",
        "expires_at": None,
        "revoked_at": None,
        "last_used_at": None,
        "secrets": [],
    }
    listed = await shared.http.get("/admin/keys?project=shop", headers={"x-api-key": ROOT})
    assert listed.json() == {"data": [issued]}
    assert secret not in listed.text


async def test_a_rotated_key_overlaps_and_a_revoked_one_is_refused_like_an_unknown_one(shared: TinyServer) -> None:
    old = await create(shared)
    _, new = await ask(shared, "POST", f"/admin/keys/{old['id']}/rotate")
    assert (new["id"], len(new["secrets"])) == (old["id"], 2)
    assert new["secrets"][0]["expires_at"] - time.time() == pytest.approx(86_400, abs=60)
    assert [await chat(shared, one["key"]) for one in (old, new)] == [200, 200]
    _, newest = await ask(shared, "POST", f"/admin/keys/{old['id']}/rotate", {"overlap_seconds": 0})
    assert [await chat(shared, one["key"]) for one in (old, new, newest)] == [401, 401, 200]
    status, revoked = await ask(shared, "DELETE", f"/admin/keys/{old['id']}")
    assert (status, revoked["status"]) == (200, "revoked")
    refused = await ask(shared, "GET", "/v1/models", key=newest["key"])
    assert refused == await ask(shared, "GET", "/v1/models", key="unknown")
    assert refused[0] == 401


async def test_only_administrators_see_and_change_keys(shared: TinyServer) -> None:
    tenant = await create(shared, scopes=["infer", "finetune"])
    admin = await create(shared, scopes=["admin"])
    for method, path in (
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("GET", f"/admin/keys/{tenant['id']}"),
        ("POST", f"/admin/keys/{tenant['id']}/rotate"),
        ("DELETE", f"/admin/keys/{tenant['id']}"),
    ):
        status, refused = await ask(shared, method, path, {"name": "more", "scopes": ["admin"]}, tenant["key"])
        assert (status, refused["error"]["code"]) == (403, "not_permitted"), path
    assert (await ask(shared, "GET", "/admin/keys", key=admin["key"]))[0] == 200


@pytest.mark.parametrize(
    ("grant", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": " a"}, "name"),
        ({"name": 1}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"project": "../x"}, "project"),
        ({"project": "shop\n"}, "project"),
        ({"project": ""}, "project"),
        ({"project": "x" * 65}, "project"),
        ({"organisation": "Acme Inc."}, "organisation"),
        ({"models": []}, "models"),
        ({"models": ["a b"]}, "models"),
        ({"models": ["x"] * 101}, "models"),
        ({"models": ["tone"], "scopes": ["admin"]}, "models"),
        ({"expires_at": 1}, "expires_at"),
        ({"expires_at": 1e11}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"admin": True}, "admin"),
    ],
)
async def test_a_senseless_key_is_refused_with_the_name_of_the_field(
    shared: TinyServer, grant: dict[str, object], field: str
) -> None:
    status, refused = await ask(shared, "POST", "/admin/keys", {"name": "app"} | grant)
    assert status == 400, refused
    assert field in (refused["error"]["param"] or ""), refused


async def test_overlaps_beyond_all_bounds_and_unknown_keys_are_refused(shared: TinyServer) -> None:
    issued = await create(shared)
    for overlap in (-1, 1e9, "1"):
        status, _ = await ask(shared, "POST", f"/admin/keys/{issued['id']}/rotate", {"overlap_seconds": overlap})
        assert status == 400, overlap
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate")):
        status, refused = await ask(shared, method, f"/admin/keys/key_none{path}")
        assert (status, refused["error"]["code"]) == (404, "key_not_found")


async def test_a_server_that_asks_for_no_keys_issues_none(tmp_path: Path, tiny_base: ResolvedBase) -> None:
    async with tiny_server(tmp_path, tiny_base) as open_server:
        response: httpx.Response = await open_server.http.post("/admin/keys", json={"name": "app"})
        assert (response.status_code, response.json()["error"]["code"]) == (409, "keys_not_used")
        assert (await open_server.http.get("/admin/keys")).json() == {"data": []}
        assert (await open_server.http.get("/v1/models", headers={"authorization": "Bearer x"})).status_code == 200
