"""`loramux adapter download`, against a server on the fake engine and against one that breaks connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from loramux_adapters.file_lock import FileLock
from loramux_adapters.intake.archive import VersionArchive
from loramux_adapters.intake.content import content_digest, hash_files
from loramux_server.base_model import ResolvedBase
from loramux_server.cli import version_download
from loramux_server.cli.main import main as app
from tests.helpers.adapter_files import write_adapter
from tests.helpers.file_server import FileHandler, FileServer, run_file_server
from tests.helpers.registry_records import manifest
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.slow


def download(url: str, *arguments: object) -> Result:
    environment = {"LORAMUX_CLI_URL": url, "COLUMNS": "200"}
    return CliRunner().invoke(app, ["adapter", "download", *map(str, arguments)], env=environment)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest_asyncio.fixture
async def tiny(tmp_path: Path, tiny_base: ResolvedBase) -> AsyncIterator[TinyServer]:
    async with tiny_server(tmp_path / "server", tiny_base) as server:
        yield server


async def test_the_files_of_what_a_name_points_at_are_downloaded(tiny: TinyServer, tmp_path: Path) -> None:
    old, new = await tiny.add("team/tone", 1), await tiny.add("team/tone", 2)
    await tiny.http.put("/admin/aliases/gpt", json={"target": "team/tone"})
    await tiny.http.put("/admin/aliases/gpt/old", json={"target": old})
    for name, version in (("team/tone", new), (old[: len("team/tone@") + 4], old), ("gpt", new), ("gpt/old", old)):
        folder = tmp_path / "mine" / name.replace("/", "-")
        result = await asyncio.to_thread(download, tiny.url, name, folder, "--json")
        assert json.loads(result.stdout) == {"version": version, "folder": str(folder)}
        assert content_digest(hash_files(folder)).startswith(version.partition("@")[2])
        assert (await asyncio.to_thread(download, tiny.url, name, folder)).exit_code == 0  # it is there already
    assert leftovers(tmp_path / "mine") == []


async def test_what_can_not_be_downloaded_ends_with_the_reason(tiny: TinyServer, tmp_path: Path) -> None:
    old, new = await tiny.add("tone", 1), await tiny.add("tone", 2)
    targets = [{"version": old}, {"version": new}]
    await tiny.http.put("/admin/adapters/tone/alias", json={"targets": targets})
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for name, folder, words in (
        ("tone", "new", f"split among several versions; expected one of them: {old}, {new}"),
        ("nobody", "new", "No adapter is registered as nobody"),
        (new, "taken", "taken exists and is not"),
        (new, "taken/file", "exists and is not"),
        (new, "taken/file/below", "can't write"),
    ):
        result = await asyncio.to_thread(download, tiny.url, name, tmp_path / folder)
        assert (result.exit_code, words in result.stderr) == (1, True), result.stderr
    assert not (tmp_path / "new").exists()


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FileServer, str]]:
    """A server with one version, whose next connections may break; and the version's id."""
    monkeypatch.setattr(version_download, "RETRY_SECONDS", 0.0)
    folder = write_adapter(tmp_path / "adapter")
    files = hash_files(folder)
    archive = VersionArchive.open(folder, manifest("a").model_copy(update={"files": files}))
    digest = content_digest(files)[:12]
    adapter = {"name": "tone", "versions": [{"id": f"tone@{digest}", "weight": 1.0}]}
    with run_file_server(FileServer, FileHandler) as server:
        server.files["admin/adapters/tone"] = json.dumps(adapter).encode()
        server.files[f"admin/adapters/tone/versions/{digest}/content"] = b"".join(archive.read())
        yield server, digest


def test_an_interrupted_download_goes_on_where_it_stopped(scripted: tuple[FileServer, str], tmp_path: Path) -> None:
    server, digest = scripted
    server.cuts = [10**6, 700, 0, 0, 1000, 0, 5]
    assert download(server.url, "tone", tmp_path / "mine").exit_code == 0
    assert content_digest(hash_files(tmp_path / "mine")).startswith(digest)
    assert [line.rpartition("bytes=")[2] for line in server.requests if "bytes=" in line] == [
        "700-", "700-", "700-", "1700-", "1700-", "1705-",
    ]  # fmt: skip


def test_a_later_command_goes_on_with_what_an_earlier_one_has_received(
    scripted: tuple[FileServer, str], tmp_path: Path
) -> None:
    server, _ = scripted
    server.cuts = [10**6, 900, 0, 0, 0, 0, 0]
    assert "no loramux server responds" in download(server.url, "tone", tmp_path / "mine").stderr
    assert not (tmp_path / "mine").exists()
    assert len(leftovers(tmp_path)) == 1
    server.cuts = []
    assert download(server.url, "tone", tmp_path / "mine").exit_code == 0
    assert server.requests[-1].endswith("bytes=900-")
    assert leftovers(tmp_path) == []


def test_damaged_content_is_refused_and_the_next_command_starts_again(
    scripted: tuple[FileServer, str], tmp_path: Path
) -> None:
    server, digest = scripted
    path = f"admin/adapters/tone/versions/{digest}/content"
    good = server.files[path]
    for bad in (good[:2000] + bytes([good[2000] ^ 1]) + good[2001:], b"", b"x" * len(good), good[:1024]):
        server.files[path] = bad
        result = download(server.url, "tone", tmp_path / "mine")
        assert (result.exit_code, "damaged" in result.stderr) == (1, True), result.stderr
        assert not (tmp_path / "mine").exists()
        assert leftovers(tmp_path) == []
    server.files[path] = good
    assert download(server.url, "tone", tmp_path / "mine").exit_code == 0


def test_a_server_behind_a_proxy_that_leaves_out_the_size_is_read(
    scripted: tuple[FileServer, str], tmp_path: Path
) -> None:
    server, digest = scripted
    server.chunked = True
    assert download(server.url, "tone", tmp_path / "mine").exit_code == 0
    assert content_digest(hash_files(tmp_path / "mine")).startswith(digest)


def test_two_commands_do_not_download_to_one_folder_at_the_same_time(
    scripted: tuple[FileServer, str], tmp_path: Path
) -> None:
    server, digest = scripted
    part = tmp_path / f".mine.{digest}.part"
    with FileLock(part):
        result = download(server.url, "tone", tmp_path / "mine")
    assert (result.exit_code, "another command is downloading" in result.stderr) == (1, True), result.stderr
    assert download(server.url, "tone", tmp_path / "mine").exit_code == 0
    assert leftovers(tmp_path) == []


def test_the_folder_may_be_relative_but_not_the_one_where_the_command_runs(
    scripted: tuple[FileServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = scripted
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refused = download(server.url, "tone", ".")
    assert (refused.exit_code, "expected a new folder" in refused.stderr) == (1, True), refused.stderr
    assert download(server.url, "tone", "../other").exit_code == 0
    assert (tmp_path / "other" / "adapter_config.json").exists()
    monkeypatch.chdir(tmp_path / "other")
    assert download(server.url, "tone", ".").exit_code == 0  # it is there already


def test_a_version_that_the_server_does_not_give_leaves_nothing(
    scripted: tuple[FileServer, str], tmp_path: Path
) -> None:
    server, digest = scripted
    del server.files[f"admin/adapters/tone/versions/{digest}/content"]
    assert download(server.url, "tone", tmp_path / "mine").exit_code == 1
    assert leftovers(tmp_path) == []
