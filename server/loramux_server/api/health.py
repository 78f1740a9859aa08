"""What operators ask: is the process up, does it take work, what does it count."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

from loramux_server.errors import ServerOverloaded
from loramux_server.metering.exposition import Exposition

WhyNotReady = Callable[[], Awaitable[str | None]]
"""Returns why the server takes no work now, in words that may be shown, or None if it does."""


def ops_router(why_not_ready: WhyNotReady, registry: CollectorRegistry = REGISTRY) -> APIRouter:
    """Return /health, /ready and /metrics (vLLM's own metrics too, where `registry` is the default one)."""
    router = APIRouter()

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready")
    async def ready() -> dict[str, str]:
        reason = await why_not_ready()
        if reason is not None:
            raise ServerOverloaded(reason)
        return {"status": "ready"}

    @router.get("/metrics")
    async def metrics(request: Request, names: Annotated[Sequence[str], Query(alias="name[]")] = ()) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        asked = registry.restricted_registry(names) if names else registry
        return Response(encode(Exposition(asked)), headers={"content-type": content_type})

    return router
