"""A small Hub on loopback: the endpoints that the real client asks, for one repository."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = {"main": COMMIT, COMMIT: COMMIT}


@dataclass
class Hub:
    """What the server has, how it answers, and what it was asked."""

    url: str
    repository: str = "org/name"
    files: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    broken: bool = False
    requests: list[str] = field(default_factory=list)


@contextmanager
def hub_server() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(url=f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: Any) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def _answer(self, *, with_body: bool) -> None:
        status, headers, body = self._found()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _found(self) -> tuple[int, dict[str, str], bytes]:
        hub, path = self.hub, self.path.partition("?")[0]
        if hub.broken:
            return 500, {}, b""
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if hub.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        api, files = f"/api/models/{hub.repository}/", f"/{hub.repository}/resolve/{COMMIT}/"
        if path.startswith(f"{api}revision/"):
            commit = REVISIONS.get(path.removeprefix(f"{api}revision/"))
            if commit is None:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            return 200, {}, json.dumps({"id": hub.repository, "sha": commit, "siblings": []}).encode()
        if path.startswith(f"{api}tree/{COMMIT}"):
            return 200, {}, json.dumps([_entry(name, content) for name, content in hub.files.items()]).encode()
        if path.startswith(files) and (content := hub.files.get(path.removeprefix(files))) is not None:
            return 200, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": COMMIT}, content
        return 404, {"X-Error-Code": "RepoNotFound"}, b""


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
