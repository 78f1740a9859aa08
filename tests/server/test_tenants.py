"""Two projects on one server: what belongs to the other does not exist, on every route that their keys may call."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio

from loramux_server.auth import Scope
from loramux_server.base_model import ResolvedBase
from loramux_server.keys.models import KeyGrant
from loramux_server.middleware.access_rules import RULES
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

BASE = "tiny"
ADAPTER, ALIAS = "tone-of-acme", "acme/assistant"
VARYING = {"x-request-id", "openai-processing-ms", "date", "content-length"}
LINE = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
BOTH = frozenset({Scope.INFER, Scope.FINETUNE})


@dataclass
class Tenant:
    """A client with a key of a project."""

    http: httpx.AsyncClient

    async def ask(self, call: "Call") -> httpx.Response:
        """Send a request."""
        return await self.http.request(call.method, call.path, json=call.body, params=call.query, files=call.files)


@dataclass(frozen=True)
class Call:
    """A request that names something."""

    method: str
    path: str
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)
    files: Any = None


@dataclass
class World:
    """A server, clients of two projects and an administrator, and the names of what acme has."""

    tiny: TinyServer
    acme: Tenant
    beta: Tenant
    admin: Tenant
    things: dict[str, str]
    """Ids by the names of path parameters and body fields; that of an adapter is its version."""

    @property
    def models(self) -> list[str]:
        """The names by which acme can use its adapter."""
        digest = self.things["version"].partition("@")[2]
        return [ADAPTER, self.things["version"], ALIAS, f"{ALIAS}@{digest}"]


def client(tiny: TinyServer, secret: str) -> Tenant:
    """Return a client with a key."""
    return Tenant(httpx.AsyncClient(base_url=tiny.url, headers={"authorization": f"Bearer {secret}"}, timeout=30))


def issue(tiny: TinyServer, project: str, **grant: Any) -> Tenant:
    """Return a client with a new key of a project."""
    new = KeyGrant(project, grant.pop("scopes", BOTH), project, **grant)
    return client(tiny, tiny.server.keys.create(new, "root").secret)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_RESPONSES_API_STORE", "1")
        async with tiny_server(tmp_path_factory.mktemp("tenants"), tiny_base, keys=("root",)) as tiny:
            world = World(tiny, issue(tiny, "acme"), issue(tiny, "beta"), client(tiny, "root"), {})
            try:
                await furnish(world)
                yield world
            finally:
                for tenant in (world.acme, world.beta, world.admin):
                    await tenant.http.aclose()


async def furnish(world: World) -> None:
    """Give acme one thing of each kind."""
    version = await world.tiny.add(ADAPTER)
    admin, acme = world.admin.http, world.acme.http
    (await admin.put(f"/admin/adapters/{ADAPTER}/project", json={"project": "acme"})).raise_for_status()
    (await admin.put(f"/admin/aliases/{ALIAS}", json={"target": ADAPTER})).raise_for_status()
    content = b"".join(json.dumps(LINE).encode() + b"\n" for _ in range(10))
    form = {"files": {"file": ("a.jsonl", content)}, "data": {"purpose": "fine-tune"}}
    file = (await acme.post("/v1/files", **form)).json()["id"]  # type: ignore[arg-type] # a form
    upload = {"bytes": len(content), "filename": "b.jsonl", "purpose": "fine-tune", "mime_type": "text/plain"}
    job = (await acme.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file})).json()["id"]
    await acme.post(f"/v1/fine_tuning/jobs/{job}/pause")
    chat = await acme.post("/v1/chat/completions", json={"model": ADAPTER} | CHAT)
    response = await acme.post("/v1/responses", json={"model": BASE, "input": "hi", "max_output_tokens": 4})
    world.things |= {
        "version": version,
        "file": file,
        "job": job,
        "upload": (await acme.post("/v1/uploads", json=upload)).json()["id"],
        "request": chat.headers["x-request-id"],
        "response": response.json()["id"],
    }


def missing(name: str) -> str:
    """Return a name of the same form and length that nothing has."""
    return name[:-1] + ("0" if name[-1] != "0" else "1")


def generation(model: str) -> dict[str, Any]:
    """Return bodies of vLLM's routes by path."""
    return {
        "/v1/chat/completions": {"model": model} | CHAT,
        "/v1/completions": {"model": model, "prompt": "hello", "max_tokens": 4},
        "/v1/responses": {"model": model, "input": "hello", "max_output_tokens": 4},
        "/v1/messages": {"model": model} | CHAT,
        "/v1/messages/count_tokens": {"model": model, "messages": CHAT["messages"]},
        "/tokenize": {"model": model, "prompt": "hello"},
        "/detokenize": {"model": model, "tokens": [1, 2]},
    }


LISTS = {"/v1/models", "/v1/usage", "/openapi.json"}
"""Routes that name nothing; the tests of lists ask them."""
UNSUPPORTED = {rule.template for rule in RULES if "graders" in rule.template or "permissions" in rule.template}
UNSUPPORTED |= {rule.template for rule in RULES if "webhook" in rule.template}
"""Routes that answer all requests alike."""


def calls_naming(world: World, template: str, method: str) -> list[tuple[Call, str]]:
    """Return requests of a route that name things of acme, with the name in each."""
    things = world.things
    if template in generation(""):
        calls = [(Call(method, template, generation(model)[template]), model) for model in world.models]
        if template == "/v1/responses":
            body = {"model": BASE, "input": "more", "previous_response_id": things["response"], "max_output_tokens": 4}
            calls.append((Call(method, template, body), things["response"]))
        return calls
    match method, template:
        case _, "/v1/models/{name:path}":
            own_names = [model for model in world.models if model.partition("@")[0] == ADAPTER or "@" not in model]
            return [(Call(method, f"/v1/models/{model}"), model) for model in own_names]
        case "POST", "/v1/feedback":
            return [(Call(method, template, {"request_id": things["request"], "score": 1}), things["request"])]
        case "POST", "/v1/fine_tuning/jobs":
            job = {"model": BASE, "training_file": things["file"]}
            from_adapter = [(Call(method, template, job | {"model": model}), model) for model in world.models]
            return [(Call(method, template, job), things["file"]), *from_adapter]
        case "GET", "/v1/files" | "/v1/fine_tuning/jobs":
            name = things["file" if template == "/v1/files" else "job"]
            return [(Call(method, template, query={"after": name}), name)]
        case "POST", "/v1/uploads" | "/v1/files":
            return []  # they make a thing, and name none
        case _, "/v1/uploads/{upload}/complete":
            path = template.format(**things)
            return [(Call(method, path, {"part_ids": ["part-1"]}), things["upload"])]
        case _, "/v1/uploads/{upload}/parts":
            return [(Call(method, template.format(**things), files={"data": b"x"}), things["upload"])]
    found = re.findall(r"{(file|job|upload)}", template)
    assert len(found) == 1, f"{method} {template} is a new route: say what it names"
    return [(Call(method, template.format(**things)), things[found[0]])]


def routes() -> list[tuple[str, str]]:
    """Return template and method of the routes that keys of projects may call; others are none for them."""
    ruled = [rule for rule in RULES if rule.template not in LISTS | UNSUPPORTED]
    return [(rule.template, method) for rule in ruled for method in sorted(rule.methods)]


def renamed(call: Call, name: str, to: str) -> Call:
    """Return a request that names something else."""

    def change(value: Any) -> Any:
        return json.loads(json.dumps(value).replace(name, to))

    return Call(call.method, call.path.replace(name, to), change(call.body), change(dict(call.query)), call.files)


def seen(response: httpx.Response, name: str) -> tuple[int, dict[str, str], str]:
    """Return all that a response shows, without the name that was asked for."""
    headers = {key: value for key, value in response.headers.items() if key not in VARYING}
    return response.status_code, headers, response.text.replace(name, "NAME")


@pytest.mark.parametrize(("template", "method"), routes())
async def test_what_belongs_to_another_project_is_what_does_not_exist(world: World, template: str, method: str) -> None:
    for call, name in calls_naming(world, template, method):
        foreign = await world.beta.ask(call)
        other = missing(name)
        absent = await world.beta.ask(renamed(call, name, other))
        assert seen(foreign, name) == seen(absent, other)
        assert foreign.status_code == (400 if template == "/v1/fine_tuning/jobs" and method == "POST" else 404)


@pytest.mark.parametrize(("template", "method"), [route for route in routes() if route[1] == "GET"])
@pytest.mark.parametrize("who", ["acme", "admin"])
async def test_owners_and_administrators_can_read_the_same(world: World, template: str, method: str, who: str) -> None:
    for call, _ in calls_naming(world, template, method):
        assert (await getattr(world, who).ask(call)).status_code == 200


@pytest.mark.parametrize("path", generation(""))
async def test_owners_can_use_their_adapter_by_each_of_its_names(world: World, path: str) -> None:
    for model in world.models:
        assert (await world.acme.ask(Call("POST", path, generation(model)[path]))).status_code == 200


async def test_a_stored_response_is_continued_by_its_project_alone(world: World) -> None:
    body = {"model": BASE, "input": "more", "previous_response_id": world.things["response"], "max_output_tokens": 4}
    assert (await world.acme.ask(Call("POST", "/v1/responses", body))).status_code == 200
    assert (await world.admin.ask(Call("POST", "/v1/responses", body))).status_code == 404


async def test_lists_have_nothing_of_another_project(world: World) -> None:
    await world.acme.ask(Call("POST", "/v1/chat/completions", {"model": ADAPTER} | CHAT))
    for path in ("/v1/models", "/v1/files", "/v1/fine_tuning/jobs", "/v1/usage?group_by=key", "/v1/usage"):
        text = (await world.beta.http.get(path)).text
        for name in [*world.models, *world.things.values(), ALIAS, "acme"]:
            assert name not in text, path
    assert {model["id"] for model in (await world.beta.http.get("/v1/models")).json()["data"]} == {BASE}
    assert {model["id"] for model in (await world.acme.http.get("/v1/models")).json()["data"]} == {BASE, ADAPTER, ALIAS}


async def test_usage_of_a_project_is_of_its_own_requests(world: World) -> None:
    gamma = issue(world.tiny, "gamma")
    await gamma.ask(Call("POST", "/v1/chat/completions", {"model": BASE} | CHAT))
    await world.acme.ask(Call("POST", "/v1/chat/completions", {"model": ADAPTER} | CHAT))
    while not (report := (await gamma.http.get("/v1/usage?group_by=key")).json())["total"]:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)
    assert (report["total"]["requests"], report["engine"], report["training"]["jobs"]) == (1, None, 0)
    everything = (await world.admin.http.get("/admin/usage?group_by=key")).json()
    assert everything["total"]["requests"] > 1
    assert everything["engine"] is not None
    await gamma.http.aclose()


async def test_an_alias_of_a_job_begins_with_the_project_s_name(world: World) -> None:
    body = {"model": BASE, "training_file": world.things["file"], "alias": "beta/assistant"}
    refused = await world.acme.ask(Call("POST", "/v1/fine_tuning/jobs", body))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "alias")
    assert "begins with `acme/`" in refused.json()["error"]["message"]


async def test_a_model_that_is_shared_can_be_used_and_not_deleted(world: World) -> None:
    guest = issue(world.tiny, "guest", models=(ADAPTER,))
    assert (await guest.ask(Call("POST", "/v1/chat/completions", {"model": ADAPTER} | CHAT))).status_code == 200
    assert (await guest.ask(Call("DELETE", f"/v1/models/{ADAPTER}"))).status_code == 403
    for model in (BASE, "", None):
        body = CHAT if model is None else {"model": model} | CHAT
        assert (await guest.ask(Call("POST", "/v1/chat/completions", body))).status_code == 404
    await guest.http.aclose()


@pytest.mark.parametrize("models", [("*",), ("tone*",), ("t*", "acme/*")])
async def test_patterns_do_not_reach_into_other_projects(world: World, models: tuple[str, ...]) -> None:
    guest = issue(world.tiny, "guest", models=models)
    for model in world.models:
        assert (await guest.ask(Call("POST", "/v1/chat/completions", {"model": model} | CHAT))).status_code == 404
    await guest.http.aclose()


async def test_patterns_restrict_what_a_key_of_the_project_may_use(world: World) -> None:
    narrow = issue(world.tiny, "acme", models=("tone*",))
    statuses = [
        (await narrow.ask(Call("POST", "/v1/chat/completions", {"model": model} | CHAT))).status_code
        for model in (ADAPTER, ALIAS, BASE)
    ]
    assert statuses == [200, 200, 404]
    await narrow.http.aclose()
