"""Middleware of all requests, in plain ASGI: less than a microsecond per token."""

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager, nullcontext

from starlette.types import ASGIApp, Receive, Scope, Send

from loramux_server.auth import Authenticator
from loramux_server.middleware.browsers import allow_origins, require_local_host, require_one_host
from loramux_server.middleware.error_envelope import render_errors
from loramux_server.middleware.exception_handlers import add_error_handlers
from loramux_server.middleware.guards import (
    BodyLimits,
    DrainState,
    authenticate,
    hold_engine,
    limit_bodies,
    limit_requests,
    refuse_odd_paths,
    refuse_while_draining,
)
from loramux_server.middleware.json_values import check_json_values
from loramux_server.middleware.request_scope import with_request_context
from loramux_server.middleware.response_cost import PriceOf, report_cost
from loramux_server.request_context import Meter, RequestContext
from loramux_server.settings.request_limits import RequestLimits

__all__ = ["BodyLimits", "DrainState", "add_error_handlers", "add_middleware"]


def add_middleware(
    app: ASGIApp,
    *,
    drain: DrainState,
    authenticator: Authenticator,
    limits: BodyLimits,
    meter: Meter,
    admit: Callable[[], AbstractContextManager[None]] = nullcontext,
    start: Callable[[RequestContext], Awaitable[None]] | None = None,
    price_of: PriceOf = lambda *_: None,
    origins: Collection[str] = (),
    max_values: int = RequestLimits().max_values,
) -> ASGIApp:
    """Wrap `app` in all middleware, from the innermost layer to the outermost.

    `admit` is entered for each request that needs the engine; see `hold_engine`. `start` raises the error of a request
    whose key or project is at a limit, and `price_of` returns the cost of a request in nano-dollars, None if unknown.
    Web pages of the `origins` may use the API. `max_values` is the number of values that a JSON body may have.
    """
    wrapped = limit_bodies(check_json_values(app, max_values), limits)
    wrapped = hold_engine(wrapped, admit)
    if start is not None:
        wrapped = limit_requests(wrapped, start)
    wrapped = authenticate(wrapped, authenticator)
    if authenticator.is_open:
        wrapped = require_local_host(wrapped, origins)
    wrapped = require_one_host(wrapped)
    wrapped = refuse_while_draining(wrapped, drain)
    wrapped = refuse_odd_paths(wrapped)
    wrapped = report_cost(render_errors(wrapped), price_of)
    wrapped = with_request_context(wrapped, meter)
    if origins:
        wrapped = allow_origins(wrapped, origins)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await wrapped(scope, receive, send)
        elif scope["type"] == "websocket":  # not supported, and the guards do not check it
            await send({"type": "websocket.close", "code": 1008})
        else:
            await app(scope, receive, send)

    return dispatch
