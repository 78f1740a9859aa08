"""`POST /admin/adapters` with files, malformed forms, and clients that disconnect."""

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from loramux_server.base_model import ResolvedBase
from tests.helpers.adapter_files import lora_config, lora_tensors, write_adapter
from tests.helpers.tiny_server import TinyServer, tiny_server

PATH = "/admin/adapters"
FILES = ("adapter_config.json", "adapter_model.safetensors")
LINES = {"accept": "application/x-ndjson"}
BOUNDARY = "limit"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the shared server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    """A server for tests that leave it as it was, except for adapters with names of their own."""
    async with tiny_server(tmp_path_factory.mktemp("shared"), tiny_base) as server:
        yield server


def parts(folder: Path) -> dict[str, tuple[str, bytes]]:
    return {name: (name, (folder / name).read_bytes()) for name in FILES}


def part(name: str, content: bytes, *, file: str | None = None) -> bytes:
    filename = "" if file is None else f'; filename="{file}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def adapter(folder: Path) -> list[bytes]:
    """Return the parts of a valid upload."""
    write_adapter(folder)
    return [part("name", b"up"), *(part(name, (folder / name).read_bytes(), file=name) for name in FILES)]


END = f"--{BOUNDARY}--\r\n".encode()


def folder_body(folder: Path) -> dict[str, Any]:
    return {"name": "in-lines", "source": {"type": "folder", "path": str(folder)}}


async def refusal(shared: TinyServer, **options: Any) -> tuple[int, str | None]:
    """Return the server's error for this upload, of which no files may remain."""
    before = (await shared.http.get(PATH)).json()
    answer = await shared.http.post(PATH, **options)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) < 2100
    assert (await shared.http.get(PATH)).json() == before
    return answer.status_code, error["code"]


async def test_an_upload_is_served_without_a_folder_on_the_server(shared: TinyServer, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine")
    answer = await shared.http.post(PATH, data={"name": "uploaded"}, files=parts(folder))
    assert answer.status_code == 201, answer.text
    assert answer.json()["source"] == {"type": "upload"}
    assert (await shared.chat("uploaded")).model == answer.json()["id"]


async def test_an_upload_need_not_be_promoted(shared: TinyServer, tmp_path: Path) -> None:
    first = await shared.add("unpromoted", seed=1)
    data, files = {"name": "unpromoted", "promote": "false"}, parts(write_adapter(tmp_path / "x"))
    answer = await shared.http.post(PATH, data=data, files=files)
    assert (answer.json()["state"], answer.json()["weight"]) == ("ready", 0.0)
    assert (await shared.chat("unpromoted")).model == first


async def test_an_uploads_local_file_name_is_ignored(shared: TinyServer, tmp_path: Path) -> None:
    files = {name: ("../../../" + name, content) for name, (_, content) in parts(write_adapter(tmp_path / "x")).items()}
    assert (await shared.http.post(PATH, data={"name": "local-name"}, files=files)).status_code == 201
    assert not list(tmp_path.parent.glob("adapter_*"))


async def test_a_form_without_an_adapter_is_refused(shared: TinyServer, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "x")
    cases: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
        ({}, {}, None),
        ({"name": "../up"}, {}, "adapter_name_invalid"),
        ({"name": "up\0"}, {}, "adapter_name_invalid"),
        ({"name": "u" * 200_000}, {}, "adapter_name_invalid"),
        ({"name": "up", "promote": "perhaps"}, {}, None),
        ({"name": "up", "else": "x"}, {}, None),
        ({"name": ["up", "up"]}, {}, None),
        ({"name": "up"}, {"adapter_config.json": ("x", b"{")}, "adapter_invalid"),
        ({"name": "up"}, {"adapter_config.json": ("x", b"")}, "adapter_invalid"),
        ({"name": "up"}, {"adapter_config.json": ("x", b"[" * 100_000)}, "adapter_invalid"),
        ({"name": "up"}, {"../../evil": ("x", b"{}")}, "adapter_invalid"),
        ({"name": "up"}, {"adapter_config.json": None, "pytorch.bin": ("x", b"{}")}, "adapter_invalid"),
        ({"name": "up"}, {"adapter_config.json": None}, "adapter_invalid"),
        ({"name": "up"}, {"adapter_config.json": ("", b"{}")}, None),
    ]
    for data, change, code in cases:
        files = {name: part for name, part in (parts(folder) | change).items() if part}
        assert await refusal(shared, data=data, files=files) == (400, code), (data, change)


async def test_an_invalid_form_is_refused(shared: TinyServer, tmp_path: Path) -> None:
    sound = adapter(tmp_path / "x")
    config = sound[1]
    bodies = {
        "twice": [*sound, config, END],
        "name twice": [sound[0], *sound, END],
        "name as a file": [part("name", b"up", file="name"), *sound[1:], END],
        "a file as text": [*sound[:2], part(FILES[1], b"x"), END],
        "nothing": [],
        "only the end": [END],
        "ten thousand fields": [part(f"f{number}", b"x") for number in range(10_000)] + [END],
        "ten thousand files": [part(f"f{number}", b"x", file="f") for number in range(10_000)] + [END],
        "no name at all": [f"--{BOUNDARY}\r\n\r\nx\r\n".encode(), END],
        "noise": [b"\r\n--\0\xff" * 1000],
        "a huge header": [part("n" * 500_000, b"x"), END],
        "a huge field": [part("name", b"n" * 1_500_000), END],
    }
    for problem, pieces in bodies.items():
        status, _ = await refusal(shared, content=b"".join(pieces), headers=FORM)
        assert status == 400, problem
    for boundary in (b"", b"; boundary=", b"; boundary=\xe9"):
        headers = {b"content-type": b"multipart/form-data" + boundary}
        assert (await refusal(shared, content=b"".join([*sound, END]), headers=headers))[0] == 400
    assert (await shared.http.post(PATH, content=b"".join([*sound, END]), headers=FORM)).status_code == 201


# Starlette leaves what was received of a part to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_truncated_form_is_refused(shared: TinyServer, tmp_path: Path) -> None:
    cut = b"".join(adapter(tmp_path / "x"))[:-100]
    assert await refusal(shared, content=cut, headers=FORM) == (400, "adapter_invalid")
    gc.collect()


async def test_a_body_larger_than_an_adapter_can_be_is_refused_with_the_limit(shared: TinyServer) -> None:
    files = {FILES[1]: ("x", b"0" * (90 << 20))}
    answer = await shared.http.post(PATH, data={"name": "up"}, files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert any(word.isdecimal() for word in answer.json()["error"]["message"].split())


async def test_a_client_that_leaves_while_it_sends_leaves_nothing(
    shared: TinyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "uvicorn.error")  # it reports the disconnect itself, with a traceback
    before = (await shared.http.get(PATH)).json()
    body = b"".join(adapter(tmp_path / "x"))
    host, port = shared.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {FORM['content-type']}\r\n"
    writer.write(head.encode() + b"content-length: 9999999\r\n\r\n" + body)
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.1)
    gc.collect()
    assert (await shared.http.get(PATH)).json() == before
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_progress_is_streamed_as_lines_with_the_version_at_the_end(shared: TinyServer) -> None:
    body = folder_body(write_adapter(shared.settings.allowed_roots[0] / "in-lines"))
    answer = await shared.http.post(PATH, json=body, headers=LINES)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "checking the effect" in lines[-2]["progress"]
    assert lines[-1]["version"]["state"] == "ready"


async def test_an_error_after_progress_lines_is_the_last_line(shared: TinyServer, tmp_path: Path) -> None:
    answer = await shared.http.post(PATH, json=folder_body(Path("/etc")), headers=LINES)
    assert answer.status_code == 200
    assert json.loads(answer.text.splitlines()[-1])["error"]["code"] == "path_not_allowed"
    files = parts(write_adapter(tmp_path / "dora", lora_config(use_dora=True)))
    answer = await shared.http.post(PATH, data={"name": "up"}, files=files, headers=LINES)
    assert json.loads(answer.text.splitlines()[-1])["error"]["code"] == "adapter_invalid"
    assert (await shared.http.post(PATH, data={"name": "../up"}, files=files, headers=LINES)).status_code == 400


async def test_an_internal_error_is_logged_and_not_sent(
    shared: TinyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def add(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(shared.server.adapter_service, "add", add)
    answer = await shared.http.post(PATH, json=folder_body(Path("/etc")), headers=LINES)
    assert json.loads(answer.text)["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert "secret" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("has_effect", [True, False])
async def test_an_upload_is_completed_after_its_client_disconnected(
    shared: TinyServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    has_effect: bool,
) -> None:
    name = f"disconnected-{has_effect}"
    twin = await shared.add(f"twin-{has_effect}")
    if not has_effect:
        shared.engine.without_effect.add(twin.replace(f"twin-{has_effect}", name))
    monkeypatch.setattr(shared.engine, "seconds_per_token", 0.02)
    files = parts(write_adapter(tmp_path / "x", None, lora_tensors(seed=0)))
    async with shared.http.stream("POST", PATH, data={"name": name}, files=files, headers=LINES) as answer:
        async for line in answer.aiter_lines():
            if "checking the effect" in line:
                break
    await shared.server.adapter_service.wait_until_idle()
    version = (await shared.http.get(f"{PATH}/{name}")).json()["versions"][0]
    assert version["state"] == ("ready" if has_effect else "rejected")
    gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
