"""The parts of OpenAI's fine-tuning API that this server does not have: each request is answered with the reason."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter

from loramux_server.api.permissions import Caller
from loramux_server.errors import InvalidRequest

_CODE = "unsupported"
_GRADERS = (
    "Graders are not supported, because reinforcement fine-tuning is not: train with the method `supervised` or `dpo`, "
    "and score answers with `loramux compare`."
)
_PERMISSIONS = "Permissions of checkpoints are not supported: each API key of a project can request its checkpoints."
_WEBHOOKS = "Webhooks can't be changed by requests: the server's operator sets them as `webhooks`."
_REASONS = {
    "/v1/fine_tuning/alpha/graders/{verb}": _GRADERS,
    "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions": _PERMISSIONS,
    "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions/{permission}": _PERMISSIONS,
    "/v1/webhook_endpoints": _WEBHOOKS,
    "/v1/webhook_endpoints/{rest:path}": _WEBHOOKS,
}


def unsupported_router() -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)
    for path, reason in _REASONS.items():
        router.add_api_route(path, _refusal(reason), methods=["GET", "POST", "DELETE"])
    return router


def _refusal(reason: str) -> Callable[..., Awaitable[None]]:
    async def refuse(_: Caller) -> None:
        raise InvalidRequest(reason, code=_CODE)

    return refuse
