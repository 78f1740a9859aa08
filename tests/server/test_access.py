"""Who may call which route: a matrix of roles and routes, made from the routes of a running server."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio
from fastapi import FastAPI
from starlette.routing import Route

from loramux_server import app as composition
from loramux_server.auth import Scope
from loramux_server.base_model import ResolvedBase
from loramux_server.keys.lookup import KeyLookup
from loramux_server.keys.models import ApiKey, KeyGrant, stored_secret
from loramux_server.middleware.access_rules import RULES, is_for_admins, required_scopes
from loramux_server.middleware.guards import DASHBOARD_PATH, KEYLESS_PATHS
from tests.helpers.asgi import MiddlewareHarness, SentResponse, answering
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ROLES: Mapping[str, frozenset[Scope]] = {
    "infer": frozenset({Scope.INFER}),
    "finetune": frozenset({Scope.FINETUNE}),
    "both": frozenset({Scope.INFER, Scope.FINETUNE}),
    "admin": frozenset({Scope.ADMIN}),
}
STRANGERS = (None, "", "wrong", "expired", "revoked")


@dataclass(frozen=True)
class Call:
    """A method of a route, with a path of it."""

    method: str
    template: str

    @property
    def path(self) -> str:
        """A path of the template, with parameters that no other template has as a constant."""
        return re.sub(r"{\w+}", "x1", re.sub(r"{\w+:path}", "a1/b1", self.template))

    @property
    def is_public(self) -> bool:
        """Whether it needs no key."""
        return self.template in KEYLESS_PATHS or self.template.startswith(DASHBOARD_PATH)


def issued_keys() -> KeyLookup:
    """Return keys that are named as their roles, one that has expired and one that is revoked."""
    now = time.time()
    keys = {role: ApiKey(role, KeyGrant(role, scopes), now, "root") for role, scopes in ROLES.items()}
    keys["expired"] = ApiKey("expired", KeyGrant("expired", ROLES["both"], expires_at=now - 1), now, "root")
    keys["revoked"] = replace(keys["both"], id="revoked", revoked_at=now)
    lookup = KeyLookup()
    lookup.load(replace(key, secrets=[stored_secret(name, now)]) for name, key in keys.items())
    return lookup


@dataclass(frozen=True)
class Served:
    """A server, and all methods of its routes: those of the application, vLLM's among them, and of its OpenAPI page."""

    server: TinyServer
    calls: list[Call]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    apps: list[FastAPI] = []

    class Captured(FastAPI):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)  # type: ignore[arg-type] # they are passed on
            apps.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "FastAPI", Captured)
        async with tiny_server(tmp_path_factory.mktemp("access"), tiny_base, keys=("root",)) as server:
            (app,) = apps
            routes = [route for route in app.routes if isinstance(route, Route)]
            assert routes == app.routes, "a mounted application has routes that this test does not see"
            found = {(method, route.path) for route in routes for method in route.methods or ()}
            templates = {route.path_format: route.path for route in routes}  # OpenAPI writes paths in this format
            described = {
                (method.upper(), templates[path]) for path, of in app.openapi()["paths"].items() for method in of
            }
            assert len(described) > 50
            yield Served(server, [Call(*call) for call in sorted(found | described)])


@pytest.fixture
def calls(served: Served) -> list[Call]:
    """All methods of all routes."""
    return served.calls


async def ask(call: Call, key: str | None) -> SentResponse:
    """Call a server that answers 200 to everything that its guards let through."""
    server = MiddlewareHarness(answering(200, b"{}"), keys=["root"], issued=issued_keys())
    headers = {"host": "api.example"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    return await server.ask(call.path, call.method, headers)


async def test_every_route_that_is_not_for_administrators_has_one_rule(calls: list[Call]) -> None:
    rules = [(method, rule.template) for rule in RULES for method in rule.methods]
    assert len(rules) == len(set(rules))
    ruled = {(call.method, call.template) for call in calls if not call.is_public and not is_for_admins(call.template)}
    assert ruled - set(rules) == set(), "a new route: give it a rule in middleware/access_rules.py"
    assert set(rules) - ruled == set(), "rules of routes that are gone"


async def test_the_rule_that_applies_to_a_route_is_its_own(calls: list[Call]) -> None:
    for call in calls:
        own = [rule.scopes for rule in RULES if rule.template == call.template and call.method in rule.methods]
        assert required_scopes(call.method, call.path) == (own[0] if own else None), call
        assert is_for_admins(call.path) == is_for_admins(call.template), call


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_gets_exactly_the_routes_of_its_scopes(calls: list[Call], role: str) -> None:
    scopes = ROLES[role]
    for call in calls:
        response = await ask(call, role)
        needed = required_scopes(call.method, call.path)
        allowed = call.is_public or role == "admin" or bool(needed and needed & scopes)
        assert response.status == (200 if allowed else 403), call


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_callers_without_a_usable_key_get_nothing(calls: list[Call], stranger: str | None) -> None:
    for call in calls:
        assert (await ask(call, stranger)).status == (200 if call.is_public else 401), call


@pytest.mark.parametrize("key", ["root", "infer", None])
@pytest.mark.parametrize("odd", ["\n", "\r", "\x00", "\x85"])
async def test_a_path_with_a_control_character_is_no_route(calls: list[Call], key: str | None, odd: str) -> None:
    """A final line end matches the pattern of a route, but nothing that is looked up by its path: it had no limits."""
    for call in calls:
        server = MiddlewareHarness(answering(200, b"{}"), keys=["root"], issued=issued_keys())
        headers = {"host": "api.example"} | ({} if key is None else {"authorization": f"Bearer {key}"})
        assert (await server.ask(call.path + odd, call.method, headers)).status == 404, call


async def test_unknown_expired_and_revoked_keys_get_the_same_answer(calls: list[Call]) -> None:
    varying = {"x-request-id", "openai-processing-ms"}
    for call in calls:
        answers = [await ask(call, stranger) for stranger in ("wrong", "expired", "revoked")]
        assert len({answer.body for answer in answers}) == 1, call
        headers = [[item for item in answer.headers.items() if item[0] not in varying] for answer in answers]
        assert headers[0] == headers[1] == headers[2], call


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/unknown"),
        ("POST", "/v1/models"),
        ("PUT", "/v1/chat/completions"),
        ("GET", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat/completions\n/x"),
        ("GET", "/metrics\n"),
        ("GET", "/METRICS"),
        ("GET", "/v1/files/x/y/z"),
        ("GET", ""),
        ("GET", "*"),
    ],
)
async def test_what_has_no_rule_does_not_exist_for_tenants(method: str, path: str) -> None:
    assert (await ask(Call(method, path), "both")).status == 404
    assert (await ask(Call(method, path), "admin")).status == (200 if path.isprintable() else 404)


@pytest.mark.parametrize(("scope", "path"), [("infer", "/v1/chat/completions"), ("finetune", "/v1/fine_tuning/jobs")])
async def test_a_refusal_names_the_scope_that_is_needed(scope: str, path: str) -> None:
    other = "finetune" if scope == "infer" else "infer"
    refused = await ask(Call("POST", path), other)
    assert f"scope `{scope}`" in refused.body.decode()


@pytest.mark.parametrize("role", ["infer", "finetune"])
async def test_the_handlers_of_a_role_ask_for_no_more_than_its_scopes(served: Served, role: str) -> None:
    grant = KeyGrant(role, ROLES[role], project="tenant")
    issued = await asyncio.to_thread(served.server.server.keys.create, grant, "root")
    headers = {"authorization": f"Bearer {issued.secret}"}
    for call in served.calls:
        needed = required_scopes(call.method, call.path)
        if needed and needed & ROLES[role]:
            response = await served.server.http.request(call.method, call.path, headers=headers, json={})
            assert response.status_code not in (401, 403, 500), (call, response.text)
