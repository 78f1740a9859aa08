"""Administration of adapters over HTTP, on the fake engine."""

import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.adapter_files import lora_config, write_adapter
from tests.helpers.tiny_server import TinyServer, tiny_server

KEY = "sk-one"
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # that of the shared server


@contextlib.asynccontextmanager
async def serving(root: Path, base: ResolvedBase) -> AsyncIterator[TinyServer]:
    """A server with a key, which its client sends."""
    async with tiny_server(root, base, keys=(KEY,)) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that leave it as it was, except for adapters with names of their own."""
    async with serving(tmp_path_factory.mktemp("shared"), tiny_base) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def description(shared: TinyServer) -> dict[str, Any]:
    """/openapi.json, which takes a second to make."""
    document: dict[str, Any] = (await shared.http.get("/openapi.json")).json()
    return document


def digest(version: str) -> str:
    return version.partition("@")[2]


async def refused(tiny: TinyServer, method: str, path: str, **options: Any) -> tuple[int, str]:
    response = await tiny.http.request(method, path, **options)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"]


async def test_a_folder_becomes_a_version_with_its_details(shared: TinyServer) -> None:
    folder = write_adapter(shared.settings.allowed_roots[0] / "from-a-folder")
    body = {"name": "from-a-folder", "source": {"type": "folder", "path": str(folder)}}
    answer = await shared.http.post("/admin/adapters", json=body)
    assert answer.status_code == 201
    version = answer.json()
    assert version["id"].startswith("from-a-folder@")
    assert (version["state"], version["weight"], version["resident"], version["rank"]) == ("ready", 1.0, True, 4)
    assert version["source"] == {"type": "folder", "path": str(folder)}
    assert len(version["proof"]["answers"]) == 4
    assert version["proof"]["difference"] > 0
    assert (await shared.http.get(f"/admin/adapters/from-a-folder/versions/{digest(version['id'])}")).json() == version


async def test_an_invalid_body_is_a_400(shared: TinyServer) -> None:
    bodies = [
        b"", b"{", b"[]", b"null", b'{"name": "a"}', b'{"name": "a", "source": {"type": "ftp"}}',
        b'{"name": 1, "source": {"type": "hub", "repo": "a/b"}}', b'{"name": "a", "source": {"type": "hub"}}',
        b'{"name": "a", "source": {"type": "folder", "path": "x", "more": 1}}', b"[" * 100_000, b"\xff\xfe",
        b'{"name": "a", "source": {"type": "folder", "path": "x"}, "promote": "maybe"}',
    ]  # fmt: skip
    for body in bodies:
        for headers in ({"content-type": "application/json"}, {"content-type": "multipart/form-data"}, {}):
            status, _ = await refused(shared, "POST", "/admin/adapters", content=body, headers=headers)
            assert status == 400, (body[:80], headers)


async def test_a_source_outside_the_allowed_folders_is_refused(shared: TinyServer) -> None:
    sources = [
        ({"type": "folder", "path": "/etc"}, 403, "path_not_allowed"),
        ({"type": "folder", "path": "\0"}, 403, "path_not_allowed"),
        ({"type": "folder", "path": "x/" * 20_000}, 403, "path_not_allowed"),
        ({"type": "url", "url": "file:///etc"}, 403, "path_not_allowed"),
        ({"type": "url", "url": "http://127.0.0.1:1/x"}, 403, "path_not_allowed"),
        ({"type": "hub", "repo": "../x"}, 502, "source_unavailable"),
        ({"type": "hub", "repo": "a/b\0"}, 502, "source_unavailable"),
    ]
    for source, status, code in sources:
        body = {"name": "a", "source": source}
        assert await refused(shared, "POST", "/admin/adapters", json=body) == (status, code), source


async def test_a_version_without_effect_is_rejected_listed_and_never_served(shared: TinyServer) -> None:
    good, weak = await shared.add("weak", 1), await shared.add("probe", 2)
    shared.engine.without_effect.add(weak.replace("probe", "weak"))
    path = str(shared.settings.allowed_roots[0] / "probe-2")
    body = {"name": "weak", "source": {"type": "folder", "path": path}}
    assert await refused(shared, "POST", "/admin/adapters", json=body) == (400, "adapter_rejected")
    listed = (await shared.http.get("/admin/adapters/weak")).json()["versions"]
    assert [one["state"] for one in listed] == ["ready", "rejected"]
    assert "no effect" in listed[1]["reason"]
    assert (await shared.chat("weak")).model == good
    models = [model["id"] for model in (await shared.http.get("/v1/models")).json()["data"]]
    assert [name for name in models if name.partition("@")[0] in ("tiny", "probe", "weak")] == ["tiny", "probe", "weak"]


async def test_promotion_split_rollback_and_their_audit_trail(shared: TinyServer) -> None:
    old, new = await shared.add("team/tone", 1), await shared.add("team/tone", 2)
    targets = [{"version": old, "weight": 60}, {"version": digest(new), "weight": 40}]
    split = (await shared.http.put("/admin/adapters/team/tone/alias", json={"targets": targets})).json()
    assert [version["weight"] for version in split["versions"]] == [60, 40]
    served = {(await shared.chat("team/tone", user=f"u{number}")).model for number in range(12)}
    assert served == {old, new}
    assert len({(await shared.chat("team/tone", user="u7")).model for _ in range(3)}) == 1
    back = (await shared.http.post("/admin/adapters/team/tone/rollback")).json()
    assert [version["weight"] for version in back["versions"]] == [0, 1]
    await shared.http.post("/admin/adapters/team/tone/rollback")
    assert (await shared.chat("team/tone")).model == old
    assert await refused(shared, "POST", "/admin/adapters/team/tone/rollback") == (409, "nothing_to_roll_back")
    trail = (await shared.http.get("/admin/audit", params={"adapter": "team/tone"})).json()["data"]
    assert [change["action"] for change in trail][:3] == ["rollback", "rollback", "split"]
    assert trail[0]["after"] == {digest(old): 1.0}
    assert trail[0]["actor"].startswith("key_")


async def test_invalid_targets_change_nothing(shared: TinyServer) -> None:
    old = await shared.add("targeted", 1)
    new = await shared.add("targeted", 2)
    bodies = [
        b"[]", b'[{"version": "OLD", "weight": 0}]', b'[{"version": "OLD", "weight": -1}]',
        b'[{"version": "OLD", "weight": NaN}]', b'[{"version": "OLD", "weight": 1e309}]',
        b'[{"version": "OLD"}, {"version": "OLD"}]', b'[{"version": "other@0123456789ab"}]', b'[{"version": "zz"}]',
        b'[{"version": "OLD", "more": 1}]', b"7", b'[{"version": "tone@"}]', b'[{"version": 7}]', b'[{"weight": 1}]',
        b'[{"version": "OLD", "weight": true}]', b'[{"version": "OLD", "weight": "x"}]',
        b"[" + b",".join([b'{"version": "OLD"}'] * 17) + b"]",
    ]  # fmt: skip
    for targets in bodies:
        content = b'{"targets": ' + targets.replace(b"OLD", old.encode()) + b"}"
        headers = {"content-type": "application/json"}
        status, _ = await refused(shared, "PUT", "/admin/adapters/targeted/alias", content=content, headers=headers)
        assert status == 400, targets[:80]
    assert (await shared.chat("targeted")).model == new


async def test_unknown_adapters_and_versions_are_a_404_everywhere(shared: TinyServer) -> None:
    await shared.add("known")
    missing = "/admin/adapters/nobody"
    target = {"targets": [{"version": "0123456789ab"}]}
    assert await refused(shared, "PUT", f"{missing}/alias", json=target) == (404, "adapter_not_found")
    assert await refused(shared, "PUT", "/admin/adapters/known/alias", json=target) == (404, "version_not_found")
    assert await refused(shared, "POST", f"{missing}/rollback") == (404, "adapter_not_found")
    assert await refused(shared, "PUT", f"{missing}/pin", json={}) == (404, "adapter_not_found")
    assert await refused(shared, "POST", f"{missing}/prefetch") == (404, "adapter_not_found")
    assert await refused(shared, "GET", missing) == (404, "adapter_not_found")
    assert await refused(shared, "DELETE", missing) == (404, "adapter_not_found")
    gone = "/admin/adapters/known/versions/0123456789ab"
    assert await refused(shared, "GET", gone) == (404, "version_not_found")
    assert await refused(shared, "DELETE", gone) == (404, "version_not_found")
    assert await refused(shared, "DELETE", "/admin/adapters/known/versions/zz") == (400, "version_invalid")


async def test_a_version_in_use_is_not_removed_but_another_is(shared: TinyServer) -> None:
    old, new = await shared.add("used", 1), await shared.add("used", 2)
    path = "/admin/adapters/used/versions/"
    assert await refused(shared, "DELETE", path + digest(new)) == (409, "version_in_use")
    left = (await shared.http.delete(path + digest(old))).json()["versions"]
    assert [version["id"] for version in left] == [new]
    assert (await shared.chat("used")).model == new


async def test_residency_shows_loaded_versions_pins_and_load_failures(tiny_base: ResolvedBase, tmp_path: Path) -> None:
    async with serving(tmp_path, tiny_base) as tiny:
        a, b = await tiny.add("a", 1), await tiny.add("b", 2)
        assert (await tiny.http.put("/admin/adapters/a/pin", json={})).json()["pinned"]
        assert await refused(tiny, "PUT", "/admin/adapters/b/pin", json={}) == (409, "pin_limit_reached")
        residency = (await tiny.http.get("/admin/residency")).json()
        assert (residency["host"], residency["slots"], residency["waiting"], residency["broken"]) == (2, 2, 0, [])
        assert {one["version"]: one["pinned"] for one in residency["resident"]} == {a: True, b: False}
        assert not (await tiny.http.put("/admin/adapters/a/pin", json={"pinned": False})).json()["pinned"]
        await tiny.evict()
        tiny.engine.refused_loads.add(b)
        status, code = await refused(tiny, "POST", "/admin/adapters/b/prefetch")
        assert (status, code) == (500, "adapter_loading_failed")
        assert [one["version"] for one in (await tiny.http.get("/admin/residency")).json()["broken"]] == [b]
        fetched = (await tiny.http.post("/admin/adapters/a/prefetch")).json()
        assert fetched["versions"][0]["resident"]


async def test_every_operation_needs_a_key_and_is_described(
    shared: TinyServer, description: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    described = description["paths"]
    ours = ("/admin", "/v1/files", "/v1/fine_tuning")
    operations = [(path, method) for path, methods in described.items() for method in methods if path.startswith(ours)]
    assert len(operations) > 40
    monkeypatch.delitem(shared.http.headers, "authorization")
    for path, method in operations:
        real = (
            path.replace("{name}", "tone")
            .replace("{digest}", "0123456789ab")
            .replace("{file}", "file-1")
            .replace("{job}", "ftjob-1")
        )
        assert await refused(shared, method, real) == (401, "invalid_api_key")
        operation = described[path][method]
        assert operation["description"]
        assert operation["summary"]
        assert {"400", "401", "403", "default"} < operation["responses"].keys()
        assert "422" not in operation["responses"]


async def test_the_description_refers_to_nothing_that_it_does_not_hold(description: dict[str, Any]) -> None:
    names = set(re.findall(r'"\$ref": "#/components/schemas/([^"]*)"', json.dumps(description)))
    assert names <= description["components"]["schemas"].keys()
    assert '"#/$defs' not in json.dumps(description)
    bodies = description["paths"]["/admin/adapters"]["post"]["requestBody"]["content"]
    assert len(bodies["application/json"]["schema"]["properties"]["source"]["oneOf"]) == 3
    form = bodies["multipart/form-data"]["schema"]
    assert form["required"] == ["name", "adapter_config.json"]
    assert form["properties"]["promote"]["default"] is True


async def test_a_rejected_config_is_reported_with_its_field(shared: TinyServer) -> None:
    folder = write_adapter(shared.settings.allowed_roots[0] / "dora", lora_config(use_dora=True))
    body = {"name": "dora", "source": {"type": "folder", "path": str(folder)}}
    error = (await shared.http.post("/admin/adapters", json=body)).json()["error"]
    assert error["code"] == "adapter_invalid"
    assert "DoRA" in error["message"]
