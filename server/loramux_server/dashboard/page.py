"""Serves the page and its files, with headers that let it load and ask this server alone."""

import asyncio

from fastapi import APIRouter, HTTPException, Request, Response

from loramux_server.dashboard.files import PAGE, File, load

# Plotly writes two <style> elements. One is empty (the SHA-256 of nothing) and gets its rules by script, which is
# allowed. The other is its maps', the same in all of a version: there are no maps here, but each refusal of it would
# stand in the browser's log like an attack.
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
    # Kept, but asked about each time: a newer server's page never runs an older one's script.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


def dashboard_router() -> APIRouter:
    """Return /dashboard and the files beneath it: the same for everyone, with no data in them."""
    router = APIRouter(include_in_schema=False)

    @router.get("/dashboard")
    async def show_page(request: Request) -> Response:
        return await _answer(request, PAGE)

    @router.get("/dashboard/{name}")
    async def show_file(request: Request, name: str) -> Response:
        return await _answer(request, name)

    return router


async def _answer(request: Request, name: str) -> Response:
    file = await asyncio.to_thread(load, name)
    if file is None:
        raise HTTPException(404)
    headers = _HEADERS | {"etag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return _whole(file, headers, packed="gzip" in request.headers.get("accept-encoding", ""))


def _whole(file: File, headers: dict[str, str], *, packed: bool) -> Response:
    encoding = {"content-encoding": "gzip"} if packed else {}
    return Response(file.packed if packed else file.plain, media_type=file.media_type, headers=headers | encoding)
