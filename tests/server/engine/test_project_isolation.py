from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loramux_server.auth import Principal, Scope
from loramux_server.engine.project_isolation import ProjectStore, salted
from loramux_server.request_context import CompositeMeter, RequestContext, current_request


def key_of(project: str) -> Principal:
    return Principal("key", frozenset({Scope.INFER}), project)


@contextmanager
def request_of(project: str | None) -> Iterator[None]:
    """Handle a request of a project, None for one of the server itself."""
    context = RequestContext(
        "request", None, CompositeMeter(()), principal=None if project is None else key_of(project)
    )
    token = current_request.set(context)
    yield
    current_request.reset(token)


def test_a_store_has_for_each_project_what_it_has_stored() -> None:
    store: ProjectStore[int] = ProjectStore()
    for number, project in enumerate(("acme", "beta", None)):
        with request_of(project):
            store["response"] = number
    with request_of("beta"):
        assert (store["response"], list(store), len(store)) == (1, ["response"], 1)
        del store["response"]
        assert store.get("response") is None
    with request_of("acme"):
        assert store["response"] == 0
    with request_of(None):
        assert store["response"] == 2
    with request_of("other"), pytest.raises(KeyError):
        store["response"]


def test_no_salt_of_a_client_is_that_of_another_project() -> None:
    projects = ("default", "acme", "beta", None)
    given = ("", "acme", "acme\n", "\n", "default\n", "beta\nacme")
    salts = {}
    for project in projects:
        for salt in given:
            prompt = {"prompt_token_ids": [1]} | ({"cache_salt": salt} if salt else {})
            salts[project, salt] = salted(prompt, key_of(project) if project else None).get("cache_salt")
    assert salts["default", ""] is None  # as without projects
    assert len(set(salts.values())) == len(salts)


def test_a_prompt_that_others_hold_is_not_changed() -> None:
    prompt = {"prompt_token_ids": [1]}
    assert salted(prompt, key_of("acme")) == {"prompt_token_ids": [1], "cache_salt": "acme\n"}
    assert prompt == {"prompt_token_ids": [1]}
    assert salted("text", key_of("acme")) == "text"
