"""Protection against web pages: which hosts and origins may send requests, and what browsers may do with responses."""

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from loramux_server.errors import InvalidRequest, NotPermitted

_LOCAL_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Headers of responses, most of which contain data of their caller: not to be kept, framed or run as anything else."""
_PREFLIGHT_SECONDS = 600


def security_headers(headers: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the security headers that a response does not set itself, as the dashboard does."""
    present = {name.lower() for name, _ in headers}
    return [header for header in _SECURITY_HEADERS if header[0] not in present]


def allow_origins(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Answer the preflight requests of web pages of these origins, and let them read responses.

    They authenticate with API keys in headers, never with cookies.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["*"],
        max_age=_PREFLIGHT_SECONDS,
    )


def require_one_host(app: ASGIApp) -> ASGIApp:
    """Refuse requests with several `Host` headers: a proxy may have checked another one than this server reads."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if len(Headers(scope=scope).getlist("host")) > 1:
            raise InvalidRequest("The request has several Host headers.")
        await app(scope, receive, send)

    return guarded


def require_local_host(app: ASGIApp, origins: Collection[str] = ()) -> ASGIApp:
    """Refuse requests whose `Host` or `Origin` is neither this machine nor allowed, for servers without API keys.

    A web page can point its own name at 127.0.0.1 (DNS rebinding) and have the browser send requests here, or send a
    form to localhost, which browsers allow, but with the page's `Origin`.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if not all(map(_LOCAL_HOST.fullmatch, headers.getlist("host"))):
            raise NotPermitted("Without API keys, this server accepts requests to localhost only.")
        if not all(origin in origins or _is_local(origin) for origin in headers.getlist("origin")):
            raise NotPermitted("Without API keys, this server accepts requests from web pages on localhost only.")
        await app(scope, receive, send)

    return guarded


def _is_local(origin: str) -> bool:
    return _LOCAL_HOST.fullmatch(origin.partition("://")[2]) is not None
