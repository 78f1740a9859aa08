"""Serves the page and its files, with headers that restrict it to this server."""

import asyncio

from fastapi import APIRouter, HTTPException, Request, Response

from loramux_server.dashboard.files import PAGE, StaticFile, load

# Plotly adds two <style> elements. One is empty (the SHA-256 of no bytes) and gets its rules by script, which is
# allowed. The other is for maps and constant within a version: the page has no maps, but blocking the element would
# log an error in the browser.
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
_MAPS_STYLE = "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {_EMPTY_STYLE} {_MAPS_STYLE}",
        "connect-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Cached, but revalidated each time, so that a newer server's page never runs an older script.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


def dashboard_router() -> APIRouter:
    """Return the routes of /dashboard and its files, which are the same for everyone and contain no data."""
    router = APIRouter(include_in_schema=False)

    @router.get("/dashboard")
    async def show_page(request: Request) -> Response:
        return await _respond(request, PAGE)

    @router.get("/dashboard/{name}")
    async def show_file(request: Request, name: str) -> Response:
        return await _respond(request, name)

    return router


async def _respond(request: Request, name: str) -> Response:
    file = await asyncio.to_thread(load, name)
    if file is None:
        raise HTTPException(404)
    headers = _HEADERS | {"etag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return _full_response(file, headers, gzipped="gzip" in request.headers.get("accept-encoding", ""))


def _full_response(file: StaticFile, headers: dict[str, str], *, gzipped: bool) -> Response:
    encoding = {"content-encoding": "gzip"} if gzipped else {}
    return Response(file.gzipped if gzipped else file.plain, media_type=file.media_type, headers=headers | encoding)
