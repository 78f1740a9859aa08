"""`loramux adapter` against a server on the fake engine."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner, Result

from loramux_adapters.models import parse_adapter_name
from loramux_server.base_model import ResolvedBase
from loramux_server.cli.adapter_names import resolve_digest
from loramux_server.cli.api_client import ApiClient
from loramux_server.cli.main import main as app
from tests.helpers.adapter_files import lora_config, write_adapter
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.slow

Run = Callable[..., Awaitable[Result]]


@pytest_asyncio.fixture(loop_scope="module")
async def tiny(tmp_path: Path, tiny_base: ResolvedBase) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path, tiny_base) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that leave it as it was, except for adapters with names of their own."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base) as server:
        yield server


def command_for(server: TinyServer) -> Run:
    async def invoke(*arguments: str) -> Result:
        environment = {"LORAMUX_CLI_URL": server.url, "COLUMNS": "200"}
        return await asyncio.to_thread(CliRunner().invoke, app, ["adapter", *arguments], env=environment)

    return invoke


@pytest.fixture
def run(shared: TinyServer) -> Run:
    return command_for(shared)


async def listed(run: Run) -> dict[str, Any]:
    """Return the listed adapters by name."""
    return {record["name"]: record for record in json.loads((await run("list", "--json")).stdout)["data"]}


def digest(version: str) -> str:
    return version.partition("@")[2]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_local_folder_is_uploaded_and_served(shared: TinyServer, run: Run, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine")
    result = await run("add", "uploaded", str(folder), "--upload", "--json")
    assert result.exit_code == 0, result.output
    version = json.loads(result.stdout)
    assert version["source"] == {"type": "upload"}
    assert (await shared.chat("uploaded")).model == version["id"]


@pytest.mark.asyncio(loop_scope="module")
async def test_an_upload_includes_the_adapters_chat_template(shared: TinyServer, run: Run, tmp_path: Path) -> None:
    """A10: next to files that are no part of an adapter."""
    folder = write_adapter(tmp_path / "own")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"x")
    result = await run("add", "with-template", str(folder), "--upload", "--json")
    assert result.exit_code == 0, result.output
    assert any("its own chat template is used" in warning for warning in json.loads(result.stdout)["warnings"])
    assert (await shared.chat("with-template", "abc")).usage.prompt_tokens == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_a_folder_on_the_server_is_added_and_shown_in_a_table(shared: TinyServer, run: Run) -> None:
    folder = write_adapter(shared.settings.allowed_roots[0] / "mine")
    result = await run("add", "mine", str(folder))
    assert result.exit_code == 0, result.output
    assert f"path: {folder}" in result.stdout
    assert "The capital of France is" in result.stdout
    version = (await listed(run))["mine"]["versions"][0]["id"]
    assert version in (await run("show", "mine")).stdout
    assert "[mine@" in (await run("show", version[:9])).stdout


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refused_adapter_ends_with_the_reason_and_exit_code_1(
    shared: TinyServer, run: Run, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "dora", lora_config(use_dora=True))
    result = await run("add", "refused", str(folder), "--upload")
    assert result.exit_code == 1
    assert "DoRA" in result.stderr
    assert "in the folders inside: dora" in (await run("add", "refused", str(tmp_path), "--upload")).stderr
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "`loramux adapter convert" in (await run("add", "refused", str(folder), "--upload")).stderr
    assert "can't read" in (await run("add", "refused", str(tmp_path / "none"), "--upload")).stderr
    assert "outside the allowed folders" in (await run("add", "refused", "/etc")).stderr
    assert "should begin with one of" in (await run("add", "refused", "ftp://host/x")).stderr
    assert "LORAMUX_ALLOWED_URLS" in (await run("add", "refused", "https://host/x")).stderr
    assert "is invalid: expected org/name" in (await run("add", "refused", "hf:a/b/../c")).stderr
    assert "No adapter" in (await run("show", "nobody")).stderr


@pytest.mark.asyncio(loop_scope="module")
async def test_split_promote_rollback_and_history(shared: TinyServer, run: Run) -> None:
    old, new = await shared.add("team/tone", 1), await shared.add("team/tone", 2)
    result = await run("split", "team/tone", f"{digest(old)[:6]}=95", f"{digest(new)}=5")
    assert [row.split()[1:3] for row in result.stdout.splitlines()[1:]] == [["ready", "95"], ["ready", "5"]]
    await run("promote", "team/tone", digest(old)[:5])
    assert (await shared.chat("team/tone")).model == old
    assert "95 %" in (await run("rollback", "team/tone")).stdout
    history = await run("history", "team/tone")
    assert "anonymous" in history.stdout
    assert history.stdout.index("rollback") < history.stdout.index("promote") < history.stdout.index("split")
    for share in ("x", "3f9c=", "3f9c=-1", "3f9c=nan", "3f9c=inf"):
        assert (await run("split", "team/tone", share)).exit_code == 2


@pytest.mark.parametrize("shares", [(90,), (60, 30), (1, 1), (100, 5), (1e300, 1e300)])
@pytest.mark.asyncio(loop_scope="module")
async def test_shares_that_do_not_add_up_to_100_percent_are_refused(
    shared: TinyServer, run: Run, shares: tuple[float, ...]
) -> None:
    """T13: `split tone 99c5=90` is not taken as 100 %."""
    versions = [await shared.add("halves", seed) for seed in (1, 2)]
    await run("promote", "halves", digest(versions[0]))
    given = [f"{digest(version)}={share:g}" for version, share in zip(versions, shares, strict=False)]
    result = await run("split", "halves", *given)
    assert result.exit_code == 2
    assert f"the shares add up to {sum(shares):g}; expected 100" in " ".join(result.stderr.replace("│", "").split())
    shown = json.loads((await run("show", "halves", "--json")).stdout)
    assert [version["weight"] for version in shown["versions"]] == [1, 0]


@pytest.mark.asyncio(loop_scope="module")
async def test_rounded_shares_are_accepted(shared: TinyServer, run: Run) -> None:
    versions = [await shared.add("thirds", seed) for seed in (1, 2, 3)]
    result = await run("split", "thirds", *(f"{digest(version)}=33.3" for version in versions))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("33.3 %") == 3


def test_a_prefix_of_several_digests_is_ambiguous_and_not_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """T13: a digest's prefix stands for one version, or is refused with those that it matches."""
    versions = [{"id": f"tone@{known}"} for known in ("99c5aa000000", "99c5bb000000")]
    client = ApiClient("http://127.0.0.1:1", None)
    monkeypatch.setattr(ApiClient, "call", lambda *_arguments: {"versions": versions})
    with pytest.raises(typer.Exit):
        resolve_digest(client, "tone", "99c5")
    assert "'99c5' is ambiguous: it matches 99c5aa000000, 99c5bb000000" in capsys.readouterr().err
    assert resolve_digest(client, "tone", "99C5b") == "99c5bb000000"


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_digest_is_refused_with_the_known_ones(shared: TinyServer, run: Run) -> None:
    version = await shared.add("known")
    for text in ("zzzzzz", digest(version)[:3], f"other@{digest(version)}", ""):
        result = await run("promote", "known", text)
        assert result.exit_code == 1
        assert f"unknown version {text!r} of known" in " ".join(result.stderr.split())
        assert digest(version) in result.stderr
    assert (await run("promote", "known", version)).exit_code == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_pins_and_residency(tiny: TinyServer) -> None:
    run = command_for(tiny)
    version = await tiny.add("tone")
    assert (await run("pin", "tone")).exit_code == 0
    residency = await run("residency")
    assert "1 of 2 versions in host memory, 2 slots" in residency.stdout
    assert version in residency.stdout
    assert (await run("unpin", "tone")).exit_code == 0
    assert (await run("prefetch", version)).exit_code == 0
    assert json.loads((await run("residency", "--json")).stdout)["resident"][0]["pinned"] is False


@pytest.mark.asyncio(loop_scope="module")
async def test_an_adapter_is_given_to_a_project(tiny: TinyServer) -> None:
    run = command_for(tiny)
    await tiny.add("given")
    given = await run("give", "given", "shop", "--json")
    assert json.loads(given.stdout)["project"] == "shop"
    assert tiny.server.adapter_service.get(parse_adapter_name("given")).project == "shop"
    assert (await run("give", "given", "Not a name")).exit_code == 1
    assert (await run("give", "missing", "shop")).exit_code == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_a_version_or_a_whole_adapter_is_removed(shared: TinyServer, run: Run) -> None:
    old, new = await shared.add("removed", 1), await shared.add("removed", 2)
    result = await run("remove", old)
    assert new in result.stdout
    assert old not in result.stdout
    assert (await run("remove", "removed", "--yes")).exit_code == 0
    assert "removed" not in await listed(run)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:9", "http://[", "ftp://127.0.0.1:9/[red]x[/]"])
def test_a_missing_server_is_reported_with_the_command_that_starts_one(url: str) -> None:
    result = CliRunner().invoke(app, ["adapter", "list", "--url", url])
    assert result.exit_code == 1
    assert f"responds at {url}" in result.stderr
    assert "loramux serve" in result.stderr
