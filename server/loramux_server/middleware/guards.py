"""Checks before a request is handled; each raises an error, which the error envelope outside of them renders."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loramux_adapters.errors import AdapterError
from loramux_server.auth import Authenticator
from loramux_server.errors import BodyTooLarge, InvalidRequest, ShuttingDown, from_adapter_error
from loramux_server.middleware.access_rules import check_access
from loramux_server.middleware.request_scope import OPERATIONS
from loramux_server.request_context import RequestContext, current_request

KEYLESS_PATHS = frozenset({"/health", "/ready"})
"""Paths without authentication, served during a drain too. /metrics needs a key: it contains adapter names."""

DASHBOARD_PATH = "/dashboard"
"""The page and its files need no key, because they contain no data."""

ADAPTERS_PATH, FILES_PATH = "/admin/adapters", "/v1/files"
"""Paths of file uploads, with larger bodies."""

ENGINE_PATHS = frozenset({*OPERATIONS, ADAPTERS_PATH})
"""A POST to one of these needs the engine: it generates, or checks the effect of an adapter."""

FEEDBACK_PATH, EXPERIMENTS_PATH = "/v1/feedback", "/admin/experiments"
SMALL_BODIES = {FEEDBACK_PATH: 4096, EXPERIMENTS_PATH: 1 << 20}

MAX_FORM_BYTES = 1 << 20
"""Bytes of a form in addition to its files."""


class DrainState:
    """Whether the server is draining: it finishes open requests and refuses new ones."""

    def __init__(self) -> None:
        self.is_draining = False

    def start(self) -> None:
        """Refuse new requests from now on."""
        self.is_draining = True


def refuse_odd_paths(app: ASGIApp) -> ASGIApp:
    """Refuse paths with control characters, as unknown ones: a final line end would match the route of the rest.

    Starlette's patterns end with `$`, and what is looked up by its path (limits, metering) would not know the request.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].isprintable():
            raise InvalidRequest("Not Found.", status=404)
        await app(scope, receive, send)

    return guarded


def refuse_while_draining(app: ASGIApp, drain: DrainState) -> ASGIApp:
    """Refuse requests while the server is draining."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if drain.is_draining and scope["path"] not in KEYLESS_PATHS:
            raise ShuttingDown
        await app(scope, receive, send)

    return guarded


def limit_requests(app: ASGIApp, start: Callable[[RequestContext], Awaitable[None]]) -> ASGIApp:
    """Call `start` before a request is handled, which raises an error if its key or project is at a limit."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        await start(current_request.get())
        await app(scope, receive, send)

    return guarded


def hold_engine(app: ASGIApp, admit: Callable[[], AbstractContextManager[None]]) -> ASGIApp:
    """Handle the requests that need the engine in the context `admit()`, which raises an AdapterError to refuse one."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as held:
            if scope["method"] == "POST" and scope["path"] in ENGINE_PATHS:
                try:
                    held.enter_context(admit())
                except AdapterError as error:
                    raise from_adapter_error(error) from error
            await app(scope, receive, send)

    return guarded


def authenticate(app: ASGIApp, authenticator: Authenticator) -> ASGIApp:
    """Authenticate the caller from the headers, and check that its key has the scope for the route."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if not _needs_no_key(scope["path"]):
            current_request.get().principal = principal = authenticator.principal(Headers(scope=scope))
            check_access(principal, scope["method"], scope["path"])
        await app(scope, receive, send)

    return guarded


def _needs_no_key(path: str) -> bool:
    return path in KEYLESS_PATHS or path == DASHBOARD_PATH or path.startswith(f"{DASHBOARD_PATH}/")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Maximum bytes of a body, and of the files by upload path."""

    body: int
    uploads: Mapping[str, int] = field(default_factory=dict)
    """By path, or by pattern of paths with `*`."""
    small: Mapping[str, int] = field(default_factory=lambda: SMALL_BODIES)
    """Lower limits by path."""

    def of(self, scope: Scope) -> int:
        """Return the limit for this request."""
        if scope["path"] in self.small:
            return min(self.body, self.small[scope["path"]])
        upload = self._upload(scope["path"]) if scope["method"] == "POST" else None
        return self.body if upload is None else max(self.body, upload + MAX_FORM_BYTES)

    def _upload(self, path: str) -> int | None:
        return next((limit for pattern, limit in self.uploads.items() if fnmatchcase(path, pattern)), None)


def limit_bodies(app: ASGIApp, limits: BodyLimits) -> ASGIApp:
    """Refuse bodies beyond the limit: unread if the length is declared, else while reading."""

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
                # FastAPI turns exceptions while reading a body into a 400; the refusal takes precedence.
                current_request.get().refusal = error = too_large(limit)
                raise error
            return message

        await app(scope, counted, send)

    def too_large(limit: int) -> BodyTooLarge:
        return BodyTooLarge(f"The request's body is larger than {limit} bytes.")

    return guarded
