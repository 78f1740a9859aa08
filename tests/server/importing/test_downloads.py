"""Downloads from a stand-in for OpenAI's API, interrupted in many ways."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from loramux_server.importing import downloads
from loramux_server.importing.downloads import download
from loramux_server.importing.errors import ContentGoneError, ProviderError
from loramux_server.importing.folder import ImportFolder, StoredFile
from tests.helpers.openai_stand_in import KEY, OpenAIStandIn

CONTENT = bytes(range(256)) * 100
Download = Callable[[], Awaitable[StoredFile]]


@pytest.fixture
def folder(tmp_path: Path) -> ImportFolder:
    folder = ImportFolder(tmp_path)
    with folder.lock():
        return folder


@pytest.fixture
def fetch(
    stand_in: OpenAIStandIn, folder: ImportFolder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Awaitable[StoredFile]]]:
    monkeypatch.setattr(downloads, "FIRST_WAIT_SECONDS", 0.001)
    client = OpenAI(base_url=stand_in.url, api_key=KEY, max_retries=0)

    async def fetch(file: str = "file-0000") -> StoredFile:
        return await asyncio.to_thread(download, client, "OpenAI", file, folder)

    with client:
        yield fetch


def add(stand_in: OpenAIStandIn, content: bytes = CONTENT, name: str = "a.jsonl") -> None:
    stand_in.files["file-0000"] = name, content


async def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    stand_in: OpenAIStandIn, folder: ImportFolder, fetch: Download
) -> None:
    add(stand_in)
    stand_in.cuts["file-0000"] = [5000, 0, 7000, 1]
    found = await fetch()
    assert folder.path(found.sha256).read_bytes() == CONTENT
    assert found == StoredFile(sha256=hashlib.sha256(CONTENT).hexdigest(), bytes=len(CONTENT), filename="a.jsonl")
    assert stand_in.sent_bytes["file-0000"] == len(CONTENT)
    assert list((folder.root / "partial").iterdir()) == []


async def test_a_server_that_ignores_ranges_is_asked_from_the_start(
    stand_in: OpenAIStandIn, folder: ImportFolder, fetch: Download
) -> None:
    add(stand_in)
    stand_in.ignores_ranges, stand_in.cuts["file-0000"] = True, [5000]
    assert folder.path((await fetch()).sha256).read_bytes() == CONTENT


async def test_a_download_that_never_gets_further_ends_with_the_reason_and_keeps_what_came(
    stand_in: OpenAIStandIn, folder: ImportFolder, fetch: Download
) -> None:
    add(stand_in)
    stand_in.cuts["file-0000"] = [5000] + [0] * downloads.MAX_ATTEMPTS
    with pytest.raises(ProviderError, match="file-0000 stops"):
        await fetch()
    assert folder.partial("file-0000").stat().st_size == 5000
    assert folder.path((await fetch()).sha256).read_bytes() == CONTENT
    assert stand_in.sent_bytes["file-0000"] == len(CONTENT)


async def test_what_was_complete_before_a_kill_is_not_downloaded_again(
    stand_in: OpenAIStandIn, folder: ImportFolder, fetch: Download
) -> None:
    add(stand_in)
    folder.partial("file-0000").write_bytes(CONTENT)
    assert folder.path((await fetch()).sha256).read_bytes() == CONTENT
    assert stand_in.sent_bytes["file-0000"] == 0


async def test_a_partial_file_that_is_too_long_is_dropped(
    stand_in: OpenAIStandIn, folder: ImportFolder, fetch: Download
) -> None:
    add(stand_in)
    folder.partial("file-0000").write_bytes(CONTENT + b"more")
    assert folder.path((await fetch()).sha256).read_bytes() == CONTENT


async def test_a_deleted_file_is_gone(fetch: Download) -> None:
    with pytest.raises(ContentGoneError, match="No such File object"):
        await fetch()


async def test_a_file_s_name_is_no_path_and_has_no_control_characters(stand_in: OpenAIStandIn, fetch: Download) -> None:
    add(stand_in, name="../../\x1b[31metc/pass\nwd")
    assert (await fetch()).filename == "pass\N{REPLACEMENT CHARACTER}wd"


async def test_a_hostile_file_id_stays_inside_the_folder(
    stand_in: OpenAIStandIn, folder: ImportFolder, fetch: Callable[[str], Awaitable[StoredFile]]
) -> None:
    with pytest.raises(ProviderError):
        await fetch("../../etc/passwd")
    assert folder.partial("../../etc/passwd").parent == folder.root / "partial"


@given(st.text())
def test_any_file_id_has_a_path_in_the_folder(file_id: str) -> None:
    folder = ImportFolder(Path("/import"))
    assert folder.partial(file_id).resolve().parent == Path("/import/partial")
