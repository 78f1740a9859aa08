"""A loramux server on the fake engine whose trainer writes adapters, and a stand-in for OpenAI's API."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from loramux_server.importing.folder import ImportFolder
from loramux_server.importing.plan import ImportOptions
from loramux_server.importing.providers import PROVIDERS
from loramux_server.importing.session import ImportSession
from loramux_server.importing.target import TargetServer
from tests.helpers.openai_stand_in import KEY, OpenAIStandIn

if TYPE_CHECKING:
    from loramux_server.base_model import ResolvedBase
    from tests.helpers.tiny_server import TinyServer


class RecordedOutput:
    """Keeps what an import says."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def jobs(self, jobs: Mapping[str, Any]) -> None:
        pass


@pytest_asyncio.fixture
async def stand_in() -> AsyncIterator[OpenAIStandIn]:
    async with OpenAIStandIn().running() as server:
        yield server


@pytest_asyncio.fixture
async def target(tiny_base: "ResolvedBase", tmp_path: Path) -> AsyncIterator["TinyServer"]:
    from tests.helpers.importing import importing_server  # imports vLLM

    async with importing_server(tmp_path / "server", tiny_base) as tiny:
        yield tiny


@pytest.fixture
def session(stand_in: OpenAIStandIn, target: "TinyServer", tmp_path: Path) -> Iterator[Callable[..., ImportSession]]:
    """Make a session of `loramux import openai`, with other options; sessions share a folder unless told otherwise."""

    def make(
        folder: str = "import", key: str | None = KEY, provider: str | None = "openai", **options: Any
    ) -> ImportSession:
        place = ImportFolder(tmp_path / folder)
        with place.lock():
            pass
        servers.append(TargetServer(target.url, None))
        return ImportSession(
            place,
            servers[-1],
            ImportOptions(**options),
            RecordedOutput(),
            PROVIDERS[provider] if provider else None,
            stand_in.url,
            SecretStr(key) if key else None,
            poll_seconds=0.02,
        )

    servers: list[TargetServer] = []
    yield make
    for server in servers:
        server.close()


@pytest.fixture
def run(session: Callable[..., ImportSession]) -> Callable[..., Any]:
    """Run an import from its start to its end, next to the event loop of both servers."""

    async def whole(**options: Any) -> dict[str, Any]:
        made = session(**options)

        def work() -> dict[str, Any]:
            made.collect()
            plan = made.plan()
            return {result.old: result for result in made.run(plan)}

        return await asyncio.to_thread(work)

    return whole
