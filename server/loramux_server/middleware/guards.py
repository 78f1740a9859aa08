"""Whom the server serves at all: each guard raises, and the error envelope outside of them answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux_server.auth import Authenticator
from loramux_server.errors import BodyTooLarge, NotPermitted, ShuttingDown
from loramux_server.request_context import current_request

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What a load balancer asks: no key, and answered until the end. /metrics tells adapters' names, so it needs a key."""

PAGE = "/dashboard"
"""The page and its files hold no data: it asks for a key when the administration's answers need one."""

ADAPTERS_PATH, FILES_PATH = "/admin/adapters", "/v1/files"
"""Where bodies may be as large as the files that are uploaded there."""

FORM_BYTES = 1 << 20
"""What a form may have beside its files."""

_OWN_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)


class Drain:
    """Whether the server still takes new work."""

    def __init__(self) -> None:
        self.has_begun = False

    def begin(self) -> None:
        """Take no new work from now on."""
        self.has_begun = True


def refuse_while_draining(app: ASGIApp, drain: Drain) -> ASGIApp:
    """Let no new work through once the server drains."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if drain.has_begun and scope["path"] not in OPEN_PATHS:
            raise ShuttingDown
        await app(scope, receive, send)

    return guarded


def refuse_other_hosts(app: ASGIApp) -> ASGIApp:
    """Let only this machine's own names through, on a server that is open because only this machine reaches it.

    A web page can point a name of its own at 127.0.0.1 (DNS rebinding), and a browser then asks us on its behalf. Or it
    sends us a form by our own name, which a browser does without asking us first, and says from where as `Origin`.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if not _OWN_HOST.fullmatch(headers.get("host", "localhost")):
            raise NotPermitted("Without API keys this server answers to localhost and its addresses alone.")
        if not _OWN_HOST.fullmatch(headers.get("origin", "http://localhost").partition("://")[2]):
            raise NotPermitted("Without API keys this server answers to web pages of this machine alone.")
        await app(scope, receive, send)

    return guarded


def authenticate(app: ASGIApp, authenticator: Authenticator) -> ASGIApp:
    """Find out who asks, from the headers alone."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if not _needs_no_key(scope["path"]):
            current_request.get().principal = authenticator.principal(Headers(scope=scope))
        await app(scope, receive, send)

    return guarded


def _needs_no_key(path: str) -> bool:
    return path in OPEN_PATHS or path == PAGE or path.startswith(f"{PAGE}/")


@dataclass(frozen=True, slots=True)
class Limits:
    """The most bytes that a body may have, and for paths where files are uploaded how many these may have."""

    body: int
    uploads: Mapping[str, int] = field(default_factory=dict)

    def of(self, scope: Scope) -> int:
        """The limit for this request."""
        upload = self.uploads.get(scope["path"]) if scope["method"] == "POST" else None
        return self.body if upload is None else max(self.body, upload + FORM_BYTES)


def limit_bodies(app: ASGIApp, limits: Limits) -> ASGIApp:
    """Refuse bodies beyond their limit: unread if the length is declared, else where they grow too long."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        limit = limits.of(scope)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:19]) > limit:
            raise too_large(limit)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                # FastAPI makes a 400 of whatever is raised while it reads a body; the noted refusal goes before that.
                current_request.get().refusal = error = too_large(limit)
                raise error
            return message

        await app(scope, counted, send)

    def too_large(limit: int) -> BodyTooLarge:
        return BodyTooLarge(f"The request's body is larger than {limit} bytes.")

    return guarded
