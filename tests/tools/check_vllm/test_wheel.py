"""Sources come out of a wheel without reading its kernels, wherever it is, and nothing is left if that fails."""

import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from tools.check_vllm.wheel import locate, read_lock, unpack
from tools.steps import SetupError

LOCK = """
lock-version = "1.0"
[[packages]]
name = "vllm"
version = "0.33.0"
wheels = [{ url = "https://user:secret@index.example/vllm-0.33.0.whl", hashes = { sha256 = "00" } }]
"""


class _WithRanges(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        wanted = self.headers.get("Range", "")
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1] if wanted else content
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self.wfile.write(part)


class _WithoutRanges(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@contextmanager
def _served(folder: Path, handler: type[SimpleHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("handler", [_WithRanges, _WithoutRanges])
def test_the_sources_of_a_wheel_on_a_server_are_unpacked(
    tmp_path: Path, write_wheel: Callable[[dict[str, str]], Path], handler: type[SimpleHTTPRequestHandler]
) -> None:
    wheel = write_wheel({"a.py": "a = 1\n", "b/c.py": "c = 2\n", "b/data.json": "{}"})
    with _served(wheel.parent, handler) as url:
        unpack(f"{url}/{wheel.name}", tmp_path / "out", {})
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"vllm/__init__.py", "vllm/envs.py", "vllm/a.py", "vllm/b/c.py"}
    assert (tmp_path / "out" / "vllm" / "b" / "c.py").read_text() == "c = 2\n"


@pytest.mark.parametrize("name", ["vllm/../../evil.py", "../evil.py", "/evil.py", "other/evil.py"])
def test_a_file_outside_of_the_package_is_not_written(tmp_path: Path, name: str) -> None:
    with ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("vllm/__init__.py", "")
        wheel.writestr(name, "print('evil')")
    unpack(str(tmp_path / "x.whl"), tmp_path / "out", {})
    assert [path.name for path in tmp_path.rglob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("content", [b"", b"no wheel", b"PK\x03\x04 and then nothing"])
def test_a_broken_wheel_is_an_error_and_leaves_no_folder(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.whl").write_bytes(content)
    with pytest.raises(SetupError, match="can't be read"):
        unpack(str(tmp_path / "x.whl"), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_a_wheel_that_is_gone_is_an_error_without_credentials(tmp_path: Path) -> None:
    with _served(tmp_path, _WithoutRanges) as url, pytest.raises(SetupError) as error:
        unpack(url.replace("//", "//user:secret@") + "/vllm.whl", tmp_path / "out", {})
    assert "secret" not in str(error.value)


def test_a_lock_file_tells_version_and_location() -> None:
    assert read_lock(LOCK) == ("0.33.0", "https://user:secret@index.example/vllm-0.33.0.whl")
    assert read_lock(LOCK.replace("url =", "path =")) == read_lock(LOCK)


@pytest.mark.parametrize("text", ["", "nonsense", "packages = 1", "packages = []", 'packages = [{ version = "1" }]'])
def test_an_answer_without_a_wheel_is_an_error(text: str) -> None:
    with pytest.raises(SetupError, match="has no wheel"):
        read_lock(text)


def _uv(folder: Path, script: str) -> str:
    path = folder / "uv"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_uv_is_asked_for_the_wheel(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK)
    uv = _uv(tmp_path, f'cat > {tmp_path}/asked; echo "$INDEX" >> {tmp_path}/asked; cat {tmp_path}/lock')
    assert locate("vllm==0.33.0", uv, {"INDEX": "ours", "PATH": "/usr/bin:/bin"})[0] == "0.33.0"
    assert (tmp_path / "asked").read_text() == "vllm==0.33.0\nours\n"


def test_what_uv_says_about_an_unknown_version_is_the_error(tmp_path: Path) -> None:
    uv = _uv(tmp_path, "cat > /dev/null; echo there is no vllm==99 >&2; exit 1")
    with pytest.raises(SetupError, match="no wheel for vllm==99 was found:\nthere is no vllm==99"):
        locate("vllm==99", uv, {"PATH": "/usr/bin:/bin"})


def test_a_missing_uv_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="uv did not answer"):
        locate("vllm", str(tmp_path / "none"), {})
