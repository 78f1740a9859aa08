"""A fake Hugging Face Hub on loopback with one repository: the endpoints that huggingface_hub uses."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.helpers.file_server import FileHandler, FileServer, Headers, run_file_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer(FileServer):
    """The repository, and who may read it."""

    repository: str = "org/name"
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    token: str | None = None
    gated: bool = False
    answer: bytes | None = None
    """The response about a revision, instead of the correct one."""
    exists: bool = True
    private: bool = True
    may_write: bool = True
    pushed: dict[str, bytes] = field(default_factory=dict)
    """The files of the newest commit that a client made."""


@contextmanager
def run_hub_server() -> Iterator[HubServer]:
    with run_file_server(HubServer, _Handler) as hub:
        yield hub


class _Handler(FileHandler):
    def file_at(self, path: str) -> str | None:
        beginning = f"/{self.served.repository}/resolve/{COMMIT}/"
        may_read = path.startswith(beginning) and not self._refusal()
        return super().file_at(path.removeprefix(beginning)) if may_read else None

    def file_headers(self, name: str) -> Headers:
        return {"ETag": f'"{_digest(self.served.files[name])}"', "X-Repo-Commit": COMMIT}

    def other(self, path: str) -> tuple[int, Headers, bytes]:
        hub, api = self.served, f"/api/models/{self.served.repository}"
        if refusal := self._refusal():
            return refusal
        if path == api or path.startswith(f"{api}/revision/"):
            commit = hub.revisions.get(path.removeprefix(api).removeprefix("/revision/") or "main")
            return (200, {}, self._description(commit)) if commit else (404, {"X-Error-Code": "RevisionNotFound"}, b"")
        if path.startswith(f"{api}/tree/{COMMIT}"):
            return 200, {}, json.dumps([self._entry(name) for name in hub.files]).encode()
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def written(self, path: str, body: bytes) -> tuple[int, Headers, bytes]:
        """Do what a client asks that writes, and return the response."""
        hub, api = self.served, f"/api/models/{self.served.repository}"
        if refusal := self._refusal() or (None if hub.may_write else (403, {}, b"{}")):
            return refusal
        if path == "/api/repos/create":
            address = json.dumps({"url": f"{hub.url}/{hub.repository}"}).encode()
            if hub.exists:
                return 409, {}, address
            hub.exists, hub.private = True, json.loads(body)["visibility"] == "private"
            return 200, {}, address
        if path == "/api/validate-yaml":
            return 200, {}, b'{"errors": [], "warnings": []}'
        if path == f"{api}/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return 200, {}, json.dumps({"files": modes}).encode()
        if path == f"{api}/commit/main":
            lines = [json.loads(line)["value"] for line in body.splitlines()]
            hub.pushed = {line["path"]: base64.b64decode(line["content"]) for line in lines if "path" in line}
            made = {"commitUrl": f"{hub.url}/{hub.repository}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            return 200, {}, json.dumps(made).encode()
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def _refusal(self) -> tuple[int, Headers, bytes] | None:
        if self.served.token and self.headers.get("Authorization") != f"Bearer {self.served.token}":
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        return (403, {"X-Error-Code": "GatedRepo"}, b"") if self.served.gated else None

    def _description(self, commit: str) -> bytes:
        siblings = [{"rfilename": name, "size": self.served.size(name)} for name in self.served.files]
        described = {"id": self.served.repository, "sha": commit, "siblings": siblings}
        described["private"] = self.served.private
        return json.dumps(described).encode() if self.served.answer is None else self.served.answer

    def _entry(self, name: str) -> dict[str, object]:
        oid = _digest(self.served.files[name])
        return {"type": "file", "path": name, "size": self.served.size(name), "oid": oid}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
