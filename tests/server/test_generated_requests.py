"""Requests that schemathesis generates from our OpenAPI document, valid and invalid: no answer may be a 5xx."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

EXAMPLES = 3
"""Requests per operation and kind."""
SECONDS = 30
NOT_CALLED = {("post", "/admin/adapters")}
"""Would look sources up on the Hub; tests/server/api/adapters has hostile requests of its own for it."""
UNAVAILABLE = {501, 503}
"""Not supported, or not now: a stated refusal, not a fault of the server."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path_factory.mktemp("generated"), tiny_base, keys=("secret",)) as server:
        await server.add("tone")
        yield server


def operations(document: dict[str, Any]) -> Iterator[Any]:
    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if (operation.method.lower(), operation.path) not in NOT_CALLED:
            yield operation


def faults(operation: Any, url: str, mode: GenerationMode) -> list[str]:
    """Send generated requests; return those that were answered as no request may be."""
    found: list[str] = []

    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        with requests.Session() as session:
            try:
                response = case.call(
                    base_url=url, session=session, headers={"authorization": "Bearer secret"}, timeout=SECONDS
                )
            except ValueError:  # requests itself refuses to send it
                return
        if response.status_code >= 500 and response.status_code not in UNAVAILABLE:
            found.append(f"{response.status_code} {response.text[:200]}: {case.as_curl_command()[:2000]}")

    try:
        send()
    except Unsatisfiable:  # nothing about this operation can be invalid
        return []
    return found


@pytest.mark.timeout(600)
async def test_no_generated_request_is_answered_with_a_server_error(tiny: TinyServer) -> None:
    document = (await tiny.http.get("/openapi.json", headers={"authorization": "Bearer secret"})).json()
    called, found = 0, []
    for operation in operations(document):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            found += await asyncio.to_thread(faults, operation, tiny.url, mode)
        called += 1
    assert called > 50
    assert found == []
    assert (await tiny.chat("tone")).choices[0].message.content
