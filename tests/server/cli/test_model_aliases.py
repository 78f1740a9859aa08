"""`loramux alias` against a server on the fake engine."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.slow

Run = Callable[..., Awaitable[Result]]
OLD = "ft:gpt-4o-mini-2024-07-18:acme:tone:abc123"


@pytest_asyncio.fixture
async def tiny(tmp_path: Path, tiny_base: ResolvedBase) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base, aliases={"gpt-4o": "tiny", "later": "not-trained-yet"}) as server:
        yield server


@pytest.fixture
def run(tiny: TinyServer) -> Run:
    async def invoke(*arguments: str) -> Result:
        environment = {"LORAMUX_CLI_URL": tiny.url, "COLUMNS": "200"}
        return await asyncio.to_thread(CliRunner().invoke, app, ["alias", *arguments], env=environment)

    return invoke


async def test_aliases_are_set_listed_and_removed(tiny: TinyServer, run: Run) -> None:
    version = await tiny.add("tone")
    assert "an adapter" in (await run("set", OLD, "tone")).stdout
    short = version[: len("tone@") + 4]
    assert json.loads((await run("set", "team/pinned", short, "--json")).stdout)["target"] == version
    listed = json.loads((await run("list", "--json")).stdout)["data"]
    assert [(alias["name"], alias["serves"], alias["source"]) for alias in listed] == [
        (OLD, "adapter", "api"),
        ("gpt-4o", "base", "settings"),
        ("later", None, "settings"),
        ("team/pinned", "version", "api"),
    ]
    table = (await run("list")).stdout
    assert all(words in table for words in (OLD, "the base", "not served", "settings"))
    assert (await run("remove", OLD)).stdout == f"removed {OLD}\n"
    assert OLD not in (await run("list")).stdout


async def test_what_is_refused_ends_with_the_reason_and_exit_code_1(run: Run) -> None:
    for arguments, words in (
        (("set", "gpt-4o", "tiny"), "settings"),
        (("set", "x", "nobody"), "`nobody` does not exist"),
        (("set", "tiny", "tiny"), "name of a model itself"),
        (("set", "x", "nobody@3f9c"), "No adapter is registered as nobody"),
        (("remove", "nobody"), "no alias nobody"),
    ):
        result = await run(*arguments)
        assert (result.exit_code, words in result.stderr) == (1, True), (arguments, result.stderr)
