import asyncio
import errno
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from concurrent.futures._base import DoneAndNotDoneFutures
from pathlib import Path
from types import MappingProxyType
from urllib.request import Request, urlopen

import fsspec
import pytest
from fsspec.callbacks import Callback
from moto.server import ThreadedMotoServer

from loramux_adapters.errors import InvalidAdapter, PathNotAllowed, SourceUnavailable
from loramux_adapters.intake.content import (
    ADAPTER_FILES,
    CONFIG_FILE,
    INDEX_FILE,
    MLX_WEIGHTS_FILE,
    TEMPLATE_FILE,
    WEIGHTS_FILE,
)
from loramux_adapters.intake.sources import objects
from loramux_adapters.intake.sources.objects import UrlSource
from tests.helpers.file_server import MAX_WAIT_SECONDS, FileHandler, FileServer, run_file_server

pytestmark = pytest.mark.slow

ADAPTER = {CONFIG_FILE: b"{}", WEIGHTS_FILE: bytes(range(256)) * 1000}
MAX_BYTES = {CONFIG_FILE: 1000, WEIGHTS_FILE: 300_000}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto: str, aws: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server with an adapter in s3://models/tone, configured in the environment."""
    aws.setenv("AWS_ENDPOINT_URL", moto)
    _put(moto, "tone", ADAPTER)
    yield moto
    _send(f"{moto}/moto-api/reset", method="POST")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment with credentials, and without this machine's own AWS settings."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "FSSPEC_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def web() -> Iterator[FileServer]:
    with run_file_server(FileServer, FileHandler) as web:
        web.files = {f"models/tone/{name}": content for name, content in ADAPTER.items()}
        yield web


@pytest.fixture
def bad_s3(web: FileServer, aws: pytest.MonkeyPatch) -> FileServer:
    """An S3 server that can misbehave."""
    aws.setenv("AWS_ENDPOINT_URL", web.url)
    return web


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def _send(url: str, body: bytes = b"", method: str = "PUT") -> None:
    headers = {"Content-Type": "application/octet-stream"}
    with urlopen(Request(url, data=body, method=method, headers=headers)) as answer:  # noqa: S310 - our own server
        answer.read()


def _put(moto: str, folder: str, files: Mapping[str, bytes]) -> None:
    _send(f"{moto}/models")
    for name, content in files.items():
        _send(f"{moto}/models/{folder}/{name}", content)


def _fetch(
    into: Path,
    url: str = "s3://models/tone",
    allowed: str = "s3://models",
    max_bytes: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    lines: list[str] = []
    UrlSource(url, ["gs://other", allowed]).fetch(into, {**MAX_BYTES, **max_bytes}, lines.append)
    return lines


def _fetched(into: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in into.iterdir()}


def test_an_adapters_two_files_are_fetched_and_nothing_else(s3: str, into: Path) -> None:
    _put(s3, "tone", {"README.md": b"#", "optimizer.pt": b"pickle"})
    lines = _fetch(into)
    assert _fetched(into) == ADAPTER
    assert lines[-1] == "downloading adapter_model.safetensors: 256kB of 256kB"


def test_a_file_of_several_blocks_arrives_in_one_stream(bad_s3: FileServer, into: Path) -> None:
    content = bytes(range(256)) * 240_000  # more than the store's library reads at once
    bad_s3.files[f"models/tone/{WEIGHTS_FILE}"] = content
    _fetch(into, "s3://models/tone/", max_bytes={WEIGHTS_FILE: len(content)})
    assert _fetched(into)[WEIGHTS_FILE] == content
    assert bad_s3.requests == [f"GET /models/tone/{name}" for name in MAX_BYTES]


def test_files_that_were_replaced_at_the_same_address_are_read_again(s3: str, into: Path, tmp_path: Path) -> None:
    _fetch(into)
    _send(f"{s3}/moto-api/reset", method="POST")
    _put(s3, "tone", {**ADAPTER, WEIGHTS_FILE: b"new"})
    (tmp_path / "again").mkdir()
    _fetch(tmp_path / "again")
    assert _fetched(tmp_path / "again")[WEIGHTS_FILE] == b"new"


def test_the_origin_is_the_url_and_the_url_does_not_show_in_a_log() -> None:
    source = UrlSource("s3://models/tone", [])
    assert source.origin == {"type": "url", "url": "s3://models/tone"}
    assert "tone" not in repr(source)


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_file_that_is_too_large_is_refused_before_a_byte_is_written(s3: str, into: Path, name: str) -> None:
    with pytest.raises(InvalidAdapter, match=f"{name}: the file is too large"):
        _fetch(into, max_bytes={name: 1})
    assert name not in _fetched(into)


@pytest.mark.parametrize("url", ["s3://models/none", "s3://nobody-has-this-bucket/tone", "s3://models"])
def test_a_missing_folder_or_bucket_is_named(s3: str, into: Path, url: str) -> None:
    with pytest.raises(SourceUnavailable, match=rf"^{url} does not exist, or contains no adapter$"):
        _fetch(into, url, allowed="s3://")


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_a_missing_file_is_named(s3: str, into: Path, name: str) -> None:
    _put(s3, "half", {other: content for other, content in ADAPTER.items() if other != name})
    with pytest.raises(InvalidAdapter, match=f"{name}: the file is missing"):
        _fetch(into, "s3://models/half")


def test_a_pickle_instead_of_the_weights_is_refused_by_name(s3: str, into: Path) -> None:
    _put(s3, "old", {CONFIG_FILE: b"{}", "adapter_model.bin": b"pickle"})
    with pytest.raises(InvalidAdapter, match=r"adapter_model\.bin: can run code"):
        _fetch(into, "s3://models/old")


def test_weights_in_several_files_and_optional_files_are_fetched(s3: str, into: Path) -> None:
    """A12: sharded weights. A10: files next to the weights."""
    index = b'{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}'
    files = {CONFIG_FILE: b"{}", INDEX_FILE: index, "a.safetensors": b"a", "b.safetensors": b"b", TEMPLATE_FILE: b"t"}
    _put(s3, "sharded", files)
    _fetch(into, "s3://models/sharded", max_bytes={TEMPLATE_FILE: 10, "tokenizer.json": 10})
    assert _fetched(into) == files


def test_weights_of_mlx_are_fetched(s3: str, into: Path) -> None:
    """A12: mlx-lm's files."""
    files = {CONFIG_FILE: b"{}", MLX_WEIGHTS_FILE: b"w"}
    _put(s3, "mlx", files)
    _fetch(into, "s3://models/mlx")
    assert _fetched(into) == files


def test_an_optional_file_that_may_not_be_read_is_taken_as_missing(
    s3: str, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, get = fsspec.get_filesystem_class("s3"), fsspec.get_filesystem_class("s3")._get_file

    async def deny_others(self: object, path: str, *args: object, **options: object) -> None:
        if not path.endswith(ADAPTER_FILES):
            raise PermissionError
        await get(self, path, *args, **options)

    monkeypatch.setattr(store, "_get_file", deny_others)
    _fetch(into, max_bytes={TEMPLATE_FILE: 10})
    assert _fetched(into) == ADAPTER


def test_a_folder_with_the_name_of_a_file_is_not_the_file(s3: str, into: Path) -> None:
    _put(s3, f"odd/{WEIGHTS_FILE}", {"part": b"x"})
    _put(s3, "odd", {CONFIG_FILE: b"{}"})
    with pytest.raises(InvalidAdapter, match=f"{WEIGHTS_FILE}: the file is missing"):
        _fetch(into, "s3://models/odd")


def test_without_credentials_the_environment_is_named(s3: str, into: Path, aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceUnavailable, match=r"NoCredentialsError.*credentials in the server's environment"):
        _fetch(into)


def test_credentials_that_are_not_accepted_are_named_as_the_reason_and_not_shown(s3: str, into: Path) -> None:
    _send(f"{s3}/moto-api/reset-auth", b"0", method="POST")
    try:
        with pytest.raises(SourceUnavailable, match="denied access: check the credentials") as caught:
            _fetch(into)
    finally:
        _send(f"{s3}/moto-api/reset-auth", b"inf", method="POST")
    assert "somebody" not in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://models-of-others/tone", "s3://models"),
        ("s3://models/team-evil/tone", "s3://models/team"),
        ("s3://models/team-evil/tone", "s3://models/team/"),
        ("s3://models", "s3://models/team"),
        ("s3a://models/tone", "s3://models"),
        ("gs://models/tone", "s3://"),
        ("http://models/tone", "s3://"),
        ("http://good.example.evil.example/tone", "http://good.example"),
        ("http://good.example:8000/tone", "http://good.example"),
        ("https://GOOD.example/tone", "https://good.example"),
    ],
)
def test_a_url_outside_of_what_is_allowed_is_refused(into: Path, url: str, allowed: str) -> None:
    with pytest.raises(PathNotAllowed, match="LORAMUX_ALLOWED_URLS"):
        UrlSource(url, [allowed]).fetch(into, MAX_BYTES, print)


@pytest.mark.parametrize("url", ["s3://models/tone", "s3://"])
def test_without_anything_allowed_or_without_a_bucket_nothing_is_fetched(into: Path, url: str) -> None:
    with pytest.raises(PathNotAllowed):
        UrlSource(url, ["s3://"] if url == "s3://" else []).fetch(into, MAX_BYTES, print)


@pytest.mark.parametrize(
    "url",
    [
        "s3://models/team/../../others/tone",
        "s3://models//tone",
        "s3://somebody:hunter2@models/tone",
        "https://good.example@evil.example/",
        "simplecache::s3://models/tone",
        "s3://models/tone::file:///etc",
        "file:///etc",
        "memory://models/tone",
        "S3://models/tone",
    ],
)
def test_a_malformed_url_is_refused_without_repeating_it(into: Path, url: str) -> None:
    with pytest.raises(PathNotAllowed, match="This URL is invalid: it ") as caught:
        UrlSource(url, ["s3://", "https://good.example"]).fetch(into, MAX_BYTES, print)
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in str(caught.value.__cause__)


def test_a_store_without_its_package_names_the_package(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SourceUnavailable, match="without the package gcsfs: install it"):
        _fetch(into, "gs://other/tone")


def test_an_interrupted_transfer_is_resumed(bad_s3: FileServer, into: Path) -> None:
    bad_s3.cuts = [2, 200_000]
    _fetch(into)
    assert _fetched(into) == ADAPTER
    assert [request.split()[2] for request in bad_s3.requests if "bytes=" in request] == ["bytes=200000-"]


def test_a_connection_that_breaks_each_time_is_given_up(
    bad_s3: FileServer, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_s3.cuts = [0] * 1000
    _skip_sleeps(monkeypatch)
    with pytest.raises(SourceUnavailable, match=r"s3://models/tone can't be read \(ClientPayloadError\)"):
        _fetch(into)


def test_an_endless_file_ends_at_the_size_limit(bad_s3: FileServer, into: Path) -> None:
    bad_s3.endless = True
    with pytest.raises(InvalidAdapter, match=f"{CONFIG_FILE}: the file is too large"):
        _fetch(into)
    assert len(_fetched(into)[CONFIG_FILE]) < 200_000


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_a_store_that_sends_nothing_is_given_up(bad_s3: FileServer, into: Path, scheme: str) -> None:
    bad_s3.silent = True
    started = time.monotonic()
    url = "s3://models/tone" if scheme == "s3" else f"{bad_s3.url}/models/tone"
    with pytest.raises(SourceUnavailable, match=r"sent nothing for 0\.2 seconds"):
        UrlSource(url, [url], stall_timeout=0.2).fetch(into, MAX_BYTES, print)
    assert time.monotonic() - started < MAX_WAIT_SECONDS / 2


class SlowTransfer:
    """A transfer of SIZE bytes on fsspec's event loop, which receives a byte when it is told to."""

    SIZE = 3

    def __init__(self, target: Path, callback: Callback) -> None:
        self.target, self.callback, self.received = target, callback, asyncio.Event()

    def receive_a_byte(self) -> None:
        self.callback.relative_update(1)
        if self.callback.value == self.SIZE:
            self.target.touch()
            self.received.set()


def test_a_slow_transfer_is_waited_for_as_long_as_bytes_arrive(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, active = fsspec.filesystem("http"), asyncio.Queue[SlowTransfer]()

    async def receive(_store: object, _path: str, target: str, callback: Callback) -> None:
        transfer = SlowTransfer(Path(target), callback)
        active.put_nowait(transfer)
        await transfer.received.wait()

    async def receive_a_byte() -> bool:
        transfer = await active.get()
        transfer.receive_a_byte()
        if not transfer.received.is_set():
            active.put_nowait(transfer)
        return transfer.received.is_set()

    def time_out_after_each_byte(running: list[Future[None]], timeout: float) -> DoneAndNotDoneFutures[None]:
        is_complete = asyncio.run_coroutine_threadsafe(receive_a_byte(), store.loop).result(MAX_WAIT_SECONDS)
        return wait(running, MAX_WAIT_SECONDS) if is_complete else DoneAndNotDoneFutures(set(), set(running))

    monkeypatch.setattr(type(store), "_get_file", receive)
    monkeypatch.setattr(objects, "wait", time_out_after_each_byte)
    _fetch(into, "http://127.0.0.1/tone", allowed="http://127.0.0.1")
    assert _fetched(into) == dict.fromkeys(ADAPTER, b"")


def test_an_unreachable_store_is_named(into: Path, aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    _skip_sleeps(aws)
    with pytest.raises(SourceUnavailable, match=r"EndpointConnectionError.*check the network"):
        _fetch(into)


@pytest.mark.parametrize("status", [400, 403, 503])
def test_a_store_that_answers_with_an_error_is_unavailable(
    bad_s3: FileServer, into: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    bad_s3.status = status
    _skip_sleeps(monkeypatch)
    with pytest.raises(SourceUnavailable, match="s3://models/tone"):
        _fetch(into)
    assert _fetched(into) == {}


def test_a_web_server_that_is_allowed_is_read(web: FileServer, into: Path) -> None:
    lines = _fetch(into, f"{web.url}/models/tone", allowed=f"{web.url}/models")
    assert _fetched(into) == ADAPTER
    assert lines[-1] == "downloading adapter_model.safetensors: 256kB of 256kB"


def test_a_pickle_on_a_web_server_is_refused_by_name(web: FileServer, into: Path) -> None:
    web.files["models/tone/adapter_model.bin"] = web.files.pop(f"models/tone/{WEIGHTS_FILE}")
    with pytest.raises(InvalidAdapter, match=r"adapter_model\.bin: can run code"):
        _fetch(into, f"{web.url}/models/tone", allowed=web.url)


def test_an_interrupted_transfer_from_a_web_server_is_unavailable(web: FileServer, into: Path) -> None:
    web.cuts = [2, 1000]
    with pytest.raises(SourceUnavailable, match="ClientPayloadError"):
        _fetch(into, f"{web.url}/models/tone", allowed=web.url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_a_web_server_is_not_followed(web: FileServer, into: Path, status: int) -> None:
    with run_file_server(FileServer, FileHandler) as elsewhere:
        web.status, web.headers = status, {"Location": f"{elsewhere.url}/models/tone/{CONFIG_FILE}"}
        with pytest.raises(SourceUnavailable, match="responded with a redirect, which is not followed"):
            _fetch(into, f"{web.url}/models/tone", allowed=web.url)
        assert elsewhere.requests == []
    assert _fetched(into) == {}


def test_a_web_servers_error_is_quoted_by_its_status(web: FileServer, into: Path) -> None:
    web.status = 503
    with pytest.raises(SourceUnavailable, match="the server responded with 503"):
        _fetch(into, f"{web.url}/models/tone", allowed=web.url)


def test_a_full_disk_is_not_the_stores_fault(s3: str, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "_get_file", full)
    with pytest.raises(OSError, match="No space left"):
        _fetch(into)


def _skip_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the store's library retry without waiting."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _seconds, *_: sleep(0))
