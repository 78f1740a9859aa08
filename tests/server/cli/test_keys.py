"""`loramux key` against a server on the fake engine."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner, Result

from loramux_server.base_model import ResolvedBase
from loramux_server.cli.keys import parse_duration
from loramux_server.cli.main import main as app
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.slow

Run = Callable[..., Awaitable[Result]]


@pytest_asyncio.fixture
async def tiny(tmp_path: Path, tiny_base: ResolvedBase) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base, keys=("root",)) as server:
        yield server


@pytest.fixture
def run(tiny: TinyServer) -> Run:
    async def invoke(*arguments: str) -> Result:
        environment = {"LORAMUX_CLI_URL": tiny.url, "LORAMUX_CLI_API_KEY": "root", "COLUMNS": "200"}
        return await asyncio.to_thread(CliRunner().invoke, app, ["key", *arguments], env=environment)

    return invoke


async def test_a_key_is_created_listed_rotated_and_revoked(tiny: TinyServer, run: Run) -> None:
    async def status(key: str) -> int:
        return (await tiny.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code

    created = await run("create", "web[red]", "--project", "shop", "--scope", "infer", "--scope", "finetune")
    old = created.stdout.strip()
    assert (await status(old), old.count("\n")) == (200, 0)
    listed = json.loads((await run("list", "--json")).stdout)["data"]
    assert [(key["name"], key["project"], key["scopes"]) for key in listed] == [
        ("web[red]", "shop", ["finetune", "infer"])
    ]
    table = (await run("list", "--project", "shop")).stdout
    assert "web[red]" in table
    assert old[:15] in table
    assert old not in table
    key_id = listed[0]["id"]
    new = (await run("rotate", key_id, "--overlap", "0s")).stdout.strip()
    assert [await status(key) for key in (old, new)] == [401, 200]
    assert (await run("revoke", key_id)).stdout == f"revoked {key_id}\n"
    assert await status(new) == 401
    assert "no keys" in (await run("list")).stdout
    assert "revoked" in (await run("list", "--all")).stdout


async def test_a_key_has_its_models_and_its_end(run: Run) -> None:
    arguments = ("create", "app", "--model", "tone*", "--model", "tiny", "--expires", "90d", "--json")
    created = json.loads((await run(*arguments)).stdout)
    assert created["models"] == ["tone*", "tiny"]
    assert created["expires_at"] - time.time() == pytest.approx(90 * 86_400, abs=60)


async def test_a_refused_key_is_explained(run: Run) -> None:
    refused = await run("create", "app", "--project", "../x")
    assert refused.exit_code == 1
    assert "project" in refused.stderr


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("5m", 300), ("12h", 43_200), ("30d", 2_592_000)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "d", "-1d", "1w", "1.5h", "99999999999d", "1d "])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30d"):
        parse_duration(text)
