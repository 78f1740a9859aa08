"""`/v1/models` with OpenAI's own client."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx2
import openai
import pytest
import pytest_asyncio
from fastapi import FastAPI

from loramux_server.api.models import ModelEntry, models_router
from loramux_server.auth import Authenticator, Principal
from loramux_server.base_model import ResolvedBase
from loramux_server.errors import ModelNotFound
from loramux_server.metering.usage_record import Route, UsageRecord
from loramux_server.middleware import BodyLimits, DrainState, add_error_handlers, add_middleware
from tests.helpers.tiny_server import TinyServer, tiny_server

BASE = ModelEntry("org/base", 1)
TONE = ModelEntry("ft:org/base:team:tone", 2, parent="org/base")
VERSION = ModelEntry("ft:org/base:team:tone@3f9c2ab01d44", 2, parent="org/base")


class Names:
    def list(self, caller: Principal) -> Iterable[ModelEntry]:
        return [TONE, BASE]

    def get(self, name: str, caller: Principal) -> ModelEntry | None:
        return {entry.id: entry for entry in (BASE, TONE, VERSION)}.get(name)

    async def delete(self, name: str, caller: Principal) -> None:
        raise ModelNotFound(name)


class NoMeter:
    def begin(self, route: Route) -> None: ...

    def record(self, record: UsageRecord) -> None: ...


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    app = FastAPI()
    add_error_handlers(app)
    app.include_router(models_router(Names()))
    served = add_middleware(
        app, drain=DrainState(), authenticator=Authenticator([]), limits=BodyLimits(1000), meter=NoMeter()
    )
    transport = httpx2.AsyncClient(transport=httpx2.ASGITransport(served))
    async with openai.AsyncOpenAI(
        base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=transport
    ) as client:
        yield client


async def test_the_base_is_listed_first_and_adapters_name_it_as_their_parent(client: openai.AsyncOpenAI) -> None:
    models = (await client.models.list()).data
    assert [(model.id, model.owned_by, model.to_dict()["parent"]) for model in models] == [
        (BASE.id, "loramux", None),
        (TONE.id, "loramux", BASE.id),
    ]


@pytest.mark.parametrize("entry", [BASE, TONE, VERSION])
async def test_names_with_slashes_colons_and_digests_can_be_retrieved(
    client: openai.AsyncOpenAI, entry: ModelEntry
) -> None:
    model = await client.models.retrieve(entry.id)
    assert (model.id, model.created, model.object) == (entry.id, entry.created, "model")


@pytest.mark.parametrize("name", ["nobody", "tone@", "a/../b", "\N{SNOWMAN}" * 5000, "%2e%2e"])
async def test_an_unknown_name_is_model_not_found(client: openai.AsyncOpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert len(caught.value.message) < 4000
    with pytest.raises(openai.NotFoundError):
        await client.models.delete(name)


@pytest_asyncio.fixture
async def tiny(tmp_path: Path, tiny_base: ResolvedBase) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base) as server:
        yield server


async def test_fine_tunes_are_deleted_as_openai_does(tiny: TinyServer) -> None:
    old, new = await tiny.add("team/tone", 1), await tiny.add("team/tone", 2)
    with pytest.raises(openai.ConflictError, match="points at"):
        await tiny.client.models.delete(new)
    assert (await tiny.client.models.delete(old)).to_dict() == {"id": old, "object": "model", "deleted": True}
    with pytest.raises(openai.NotFoundError):
        await tiny.client.models.retrieve(old)
    assert (await tiny.client.models.delete("team/tone")).deleted
    assert [model.id for model in (await tiny.client.models.list()).data] == ["tiny"]
    trail = (await tiny.http.get("/admin/audit")).json()["data"]
    assert [change["action"] for change in trail[:2]] == ["remove", "remove_version"]


async def test_the_base_can_t_be_deleted(tiny: TinyServer) -> None:
    with pytest.raises(openai.BadRequestError, match="base"):
        await tiny.client.models.delete("tiny")
