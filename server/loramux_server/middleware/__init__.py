"""What surrounds every request, whichever handler serves it: pure ASGI, less than a microsecond for each token."""

from starlette.types import ASGIApp, Receive, Scope, Send

from loramux_server.auth import Authenticator
from loramux_server.middleware.error_envelope import render_errors
from loramux_server.middleware.exception_handlers import add_error_handlers
from loramux_server.middleware.guards import (
    Drain,
    Limits,
    authenticate,
    limit_bodies,
    refuse_other_hosts,
    refuse_while_draining,
)
from loramux_server.middleware.request_scope import in_context
from loramux_server.request_context import Meter

__all__ = ["Drain", "Limits", "add_error_handlers", "shell"]


def shell(app: ASGIApp, *, drain: Drain, authenticator: Authenticator, limits: Limits, meter: Meter) -> ASGIApp:
    """Return `app` inside of what every HTTP request goes through, from the innermost layer to the outermost."""
    served = limit_bodies(app, limits)
    served = authenticate(served, authenticator)
    if authenticator.is_open:
        served = refuse_other_hosts(served)
    served = refuse_while_draining(served, drain)
    served = render_errors(served)
    served = in_context(served, meter)

    async def entrance(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await served(scope, receive, send)
        elif scope["type"] == "websocket":  # nothing here speaks it, and the guards would not see it
            await send({"type": "websocket.close", "code": 1008})
        else:
            await app(scope, receive, send)

    return entrance
