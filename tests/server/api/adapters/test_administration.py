"""Administration of adapters over HTTP, on the fake engine."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.adapter_files import lora_config, write_adapter
from tests.helpers.tiny_server import TinyServer, tiny_server

KEY = "sk-one"


@pytest_asyncio.fixture
async def tiny(tmp_path: Path, tiny_base: ResolvedBase) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base, keys=(KEY,)) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server


def digest(version: str) -> str:
    return version.partition("@")[2]


async def refused(tiny: TinyServer, method: str, path: str, **options: Any) -> tuple[int, str]:
    response = await tiny.http.request(method, path, **options)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"]


async def test_a_folder_becomes_a_version_with_its_details(tiny: TinyServer) -> None:
    folder = write_adapter(tiny.settings.allowed_roots[0] / "tone")
    body = {"name": "tone", "source": {"type": "folder", "path": str(folder)}}
    answer = await tiny.http.post("/admin/adapters", json=body)
    assert answer.status_code == 201
    version = answer.json()
    assert version["id"].startswith("tone@")
    assert (version["state"], version["weight"], version["resident"], version["rank"]) == ("ready", 1.0, True, 4)
    assert version["source"] == {"type": "folder", "path": str(folder)}
    assert len(version["proof"]["answers"]) == 4
    assert version["proof"]["difference"] > 0
    assert (await tiny.http.get(f"/admin/adapters/tone/versions/{digest(version['id'])}")).json() == version


async def test_an_invalid_body_is_a_400(tiny: TinyServer) -> None:
    bodies = [
        b"", b"{", b"[]", b"null", b'{"name": "a"}', b'{"name": "a", "source": {"type": "ftp"}}',
        b'{"name": 1, "source": {"type": "hub", "repo": "a/b"}}', b'{"name": "a", "source": {"type": "hub"}}',
        b'{"name": "a", "source": {"type": "folder", "path": "x", "more": 1}}', b"[" * 100_000, b"\xff\xfe",
        b'{"name": "a", "source": {"type": "folder", "path": "x"}, "promote": "maybe"}',
    ]  # fmt: skip
    for body in bodies:
        for headers in ({"content-type": "application/json"}, {"content-type": "multipart/form-data"}, {}):
            status, _ = await refused(tiny, "POST", "/admin/adapters", content=body, headers=headers)
            assert status == 400, (body[:80], headers)


async def test_a_source_outside_the_allowed_folders_is_refused(tiny: TinyServer) -> None:
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
        assert await refused(tiny, "POST", "/admin/adapters", json=body) == (status, code), source


async def test_a_version_without_effect_is_rejected_listed_and_never_served(tiny: TinyServer) -> None:
    good, weak = await tiny.add("tone", 1), await tiny.add("probe", 2)
    tiny.engine.without_effect.add(weak.replace("probe", "tone"))
    path = str(tiny.settings.allowed_roots[0] / "probe-2")
    body = {"name": "tone", "source": {"type": "folder", "path": path}}
    assert await refused(tiny, "POST", "/admin/adapters", json=body) == (400, "adapter_rejected")
    listed = (await tiny.http.get("/admin/adapters/tone")).json()["versions"]
    assert [one["state"] for one in listed] == ["ready", "rejected"]
    assert "no effect" in listed[1]["reason"]
    assert (await tiny.chat("tone")).model == good
    models = [model["id"] for model in (await tiny.http.get("/v1/models")).json()["data"]]
    assert models == ["tiny", "probe", "tone"]


async def test_promotion_split_rollback_and_their_audit_trail(tiny: TinyServer) -> None:
    old, new = await tiny.add("team/tone", 1), await tiny.add("team/tone", 2)
    targets = [{"version": old, "weight": 60}, {"version": digest(new), "weight": 40}]
    split = (await tiny.http.put("/admin/adapters/team/tone/alias", json={"targets": targets})).json()
    assert [version["weight"] for version in split["versions"]] == [60, 40]
    served = {(await tiny.chat("team/tone", user=f"u{number}")).model for number in range(12)}
    assert served == {old, new}
    assert len({(await tiny.chat("team/tone", user="u7")).model for _ in range(3)}) == 1
    back = (await tiny.http.post("/admin/adapters/team/tone/rollback")).json()
    assert [version["weight"] for version in back["versions"]] == [0, 1]
    await tiny.http.post("/admin/adapters/team/tone/rollback")
    assert (await tiny.chat("team/tone")).model == old
    assert await refused(tiny, "POST", "/admin/adapters/team/tone/rollback") == (409, "nothing_to_roll_back")
    trail = (await tiny.http.get("/admin/audit", params={"adapter": "team/tone"})).json()["data"]
    assert [change["action"] for change in trail][:3] == ["rollback", "rollback", "split"]
    assert trail[0]["after"] == {digest(old): 1.0}
    assert trail[0]["actor"].startswith("key_")


async def test_invalid_targets_change_nothing(tiny: TinyServer) -> None:
    old = await tiny.add("tone", 1)
    new = await tiny.add("tone", 2)
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
        status, _ = await refused(tiny, "PUT", "/admin/adapters/tone/alias", content=content, headers=headers)
        assert status == 400, targets[:80]
    assert (await tiny.chat("tone")).model == new


async def test_unknown_adapters_and_versions_are_a_404_everywhere(tiny: TinyServer) -> None:
    await tiny.add("tone")
    missing = "/admin/adapters/nobody"
    target = {"targets": [{"version": "0123456789ab"}]}
    assert await refused(tiny, "PUT", f"{missing}/alias", json=target) == (404, "adapter_not_found")
    assert await refused(tiny, "PUT", "/admin/adapters/tone/alias", json=target) == (404, "version_not_found")
    assert await refused(tiny, "POST", f"{missing}/rollback") == (404, "adapter_not_found")
    assert await refused(tiny, "PUT", f"{missing}/pin", json={}) == (404, "adapter_not_found")
    assert await refused(tiny, "POST", f"{missing}/prefetch") == (404, "adapter_not_found")
    assert await refused(tiny, "GET", missing) == (404, "adapter_not_found")
    assert await refused(tiny, "DELETE", missing) == (404, "adapter_not_found")
    gone = "/admin/adapters/tone/versions/0123456789ab"
    assert await refused(tiny, "GET", gone) == (404, "version_not_found")
    assert await refused(tiny, "DELETE", gone) == (404, "version_not_found")
    assert await refused(tiny, "DELETE", "/admin/adapters/tone/versions/zz") == (400, "version_invalid")


async def test_a_version_in_use_is_not_removed_but_another_is(tiny: TinyServer) -> None:
    old, new = await tiny.add("tone", 1), await tiny.add("tone", 2)
    path = "/admin/adapters/tone/versions/"
    assert await refused(tiny, "DELETE", path + digest(new)) == (409, "version_in_use")
    left = (await tiny.http.delete(path + digest(old))).json()["versions"]
    assert [version["id"] for version in left] == [new]
    assert (await tiny.chat("tone")).model == new


async def test_residency_shows_loaded_versions_pins_and_load_failures(tiny: TinyServer) -> None:
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


async def test_every_operation_needs_a_key_and_is_described(tiny: TinyServer) -> None:
    described = (await tiny.http.get("/openapi.json")).json()["paths"]
    ours = ("/admin", "/v1/files", "/v1/fine_tuning")
    operations = [(path, method) for path, methods in described.items() for method in methods if path.startswith(ours)]
    assert len(operations) == 28
    del tiny.http.headers["authorization"]
    for path, method in operations:
        real = (
            path.replace("{name}", "tone")
            .replace("{digest}", "0123456789ab")
            .replace("{file}", "file-1")
            .replace("{job}", "ftjob-1")
        )
        assert await refused(tiny, method, real) == (401, "invalid_api_key")
        operation = described[path][method]
        assert operation["description"]
        assert operation["summary"]
        assert {"400", "401", "403", "default"} < operation["responses"].keys()
        assert "422" not in operation["responses"]


async def test_the_description_refers_to_nothing_that_it_does_not_hold(tiny: TinyServer) -> None:
    document = (await tiny.http.get("/openapi.json")).json()
    names = set(re.findall(r'"\$ref": "#/components/schemas/([^"]*)"', json.dumps(document)))
    assert names <= document["components"]["schemas"].keys()
    assert '"#/$defs' not in json.dumps(document)
    bodies = document["paths"]["/admin/adapters"]["post"]["requestBody"]["content"]
    assert len(bodies["application/json"]["schema"]["properties"]["source"]["oneOf"]) == 3
    form = bodies["multipart/form-data"]["schema"]
    assert form["required"] == ["name", "adapter_config.json", "adapter_model.safetensors"]
    assert form["properties"]["promote"]["default"] is True


async def test_a_rejected_config_is_reported_with_its_field(tiny: TinyServer) -> None:
    folder = write_adapter(tiny.settings.allowed_roots[0] / "tone", lora_config(use_dora=True))
    body = {"name": "tone", "source": {"type": "folder", "path": str(folder)}}
    error = (await tiny.http.post("/admin/adapters", json=body)).json()["error"]
    assert error["code"] == "adapter_invalid"
    assert "DoRA" in error["message"]
