"""`loramux adapter push` from a server on the fake engine to a fake Hub."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from loramux_adapters.intake.content import ADAPTER_FILES
from loramux_server.base_model import ResolvedBase
from loramux_server.cli.main import main as app
from tests.helpers.hub_server import HubServer, run_hub_server
from tests.helpers.tiny_server import tiny_server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with run_hub_server() as server:
        server.exists = False
        # The client reads the environment once, when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server


def push(url: str, *arguments: str) -> Result:
    environment = {"LORAMUX_CLI_URL": url, "COLUMNS": "200", "HF_TOKEN": "hf_secret"}
    return CliRunner().invoke(app, ["adapter", "push", *arguments], env=environment)


async def test_an_adapter_is_pushed_with_a_card_to_a_private_repository(
    hub: HubServer, tmp_path: Path, tiny_base: ResolvedBase
) -> None:
    async with tiny_server(tmp_path, tiny_base) as tiny:
        version = await tiny.add("tone")
        result = await asyncio.to_thread(push, tiny.url, "tone", "hf:org/name", "--json")
        pushed = json.loads(result.stdout)
        assert (pushed["version"], pushed["repository"]) == (version, "org/name")
        assert {*hub.pushed} == {*ADAPTER_FILES, "README.md"}
        card = hub.pushed["README.md"].decode()
        assert f"version `{version}`" in card
        assert str(tmp_path) not in card
        assert hub.private
        for arguments, words in ((("tone", "org/name"), "expected hf:ORG/NAME"), (("nobody", "hf:org/name"), "nobody")):
            refused = await asyncio.to_thread(push, tiny.url, *arguments)
            assert (refused.exit_code, words in refused.stderr) == (1, True), refused.stderr
