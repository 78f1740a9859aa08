"""Health, readiness and metrics endpoints."""

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

from loramux_server.errors import ServerOverloaded
from loramux_server.metering.exposition import Exposition

NotReadyReason = Callable[[], str | None]
"""Returns why the server is not ready, as a message for clients, or None if it is."""


def health_router(
    not_ready_reason: NotReadyReason,
    registry: CollectorRegistry = REGISTRY,
    engine_state: Callable[[], str] = lambda: "awake",
) -> APIRouter:
    """Return /health, /ready and /metrics (with vLLM's own metrics if `registry` is the default one)."""
    router = APIRouter()

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "engine": engine_state()}

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready")
    async def ready() -> dict[str, str]:
        reason = not_ready_reason()
        if reason is not None:
            raise ServerOverloaded(reason)
        return {"status": "ready"}

    @router.get("/metrics")
    async def metrics(request: Request, names: Annotated[Sequence[str], Query(alias="name[]")] = ()) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        selected = registry.restricted_registry(names) if names else registry
        return Response(encode(Exposition(selected)), headers={"content-type": content_type})

    return router
