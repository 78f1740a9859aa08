"""A file server on loopback that can be silent, interrupt transfers, announce wrong sizes and send forever."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

MAX_WAIT_SECONDS = 30.0
"""How long a silent server waits to be stopped."""

Headers = dict[str, str]


@dataclass
class FileServer:
    """The server's files by path, its behavior, and the requests it received."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    announced_sizes: dict[str, int] = field(default_factory=dict)
    """Wrong sizes that are announced before a file is sent."""
    cuts: list[int] = field(default_factory=list)
    """The number of bytes after which the connection breaks, for each of the next file responses."""
    silent: bool = False
    endless: bool = False
    chunked: bool = False
    """Whether files are sent as chunks, without their size."""
    status: int = 200
    headers: Headers = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def size(self, path: str) -> int:
        return self.announced_sizes.get(path, len(self.files[path]))


S = TypeVar("S", bound=FileServer)


@contextmanager
def run_file_server(kind: type[S], handler: "type[FileHandler]") -> Iterator[S]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    served = kind(url=f"http://127.0.0.1:{server.server_port}")
    server.served = served  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


class FileHandler(BaseHTTPRequestHandler):
    """Responds with a file or with `other`; a subclass may serve more paths."""

    protocol_version = "HTTP/1.1"

    @property
    def served(self) -> Any:
        return self.server.served  # type: ignore[attr-defined]

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that disconnects
            super().handle()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._send(*self.written(self.path.partition("?")[0], body))

    def written(self, path: str, body: bytes) -> tuple[int, Headers, bytes]:
        """Do what a POST asks, and return the response."""
        return 404, {}, b""

    def log_message(self, *_: Any) -> None:
        self.served.requests.append(" ".join(filter(None, (self.command, self.path, self.headers.get("Range")))))

    def file_at(self, path: str) -> str | None:
        """Return the name of the file at `path`."""
        return path.removeprefix("/") if path.removeprefix("/") in self.served.files else None

    def file_headers(self, name: str) -> Headers:
        return {}

    def other(self, path: str) -> tuple[int, Headers, bytes]:
        return 404, {}, b""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if self.served.silent:
            self.served.stopped.wait(MAX_WAIT_SECONDS)
            self.close_connection = True
        elif self.served.status != 200:
            self._send(self.served.status, self.served.headers, b"")
        elif name := self.file_at(path):
            self._send_file(name)
        else:
            self._send(*self.other(path))

    def _send(self, status: int, headers: Headers, body: bytes) -> None:
        self._send_headers(status, {"Content-Length": str(len(body)), **headers})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, status: int, headers: Headers) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _send_file(self, name: str) -> None:
        headers = self.file_headers(name)
        if self.command == "HEAD":
            self._send(200, {**headers, "Content-Length": str(self.served.size(name))}, b"")
        elif self.served.endless:
            self._send_for_ever(headers)
        else:
            self._send_part(name, headers)

    def _send_part(self, name: str, headers: Headers) -> None:
        content, status = self.served.files[name], 200
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(asked[1])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content, status = content[start:], 206
        if self.served.cuts:
            self.close_connection = True
            headers = {**headers, "Content-Length": str(len(content))}
            content = content[: self.served.cuts.pop(0)]
        if self.served.chunked:
            piece = f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\n\r\n"
            self._send_headers(status, {**headers, "Transfer-Encoding": "chunked"})
            self.wfile.write(piece)
        else:
            self._send(status, headers, content)

    def _send_for_ever(self, headers: Headers) -> None:
        self._send_headers(200, {**headers, "Transfer-Encoding": "chunked"})
        piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        while not self.served.stopped.is_set():
            self.wfile.write(piece)
