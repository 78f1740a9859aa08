"""Permissions as parameter types of handlers."""

from typing import Annotated

from fastapi import Depends

from loramux_server.auth import Principal
from loramux_server.errors import NotPermitted
from loramux_server.request_context import current_request


async def _require_admin() -> Principal:
    principal = current_request.get().principal
    if principal is None or not principal.admin:
        raise NotPermitted("This needs an admin key.")
    return principal


async def _require_caller() -> Principal:
    principal = current_request.get().principal
    if principal is None:
        raise NotPermitted("This needs an API key.")
    return principal


def visible_project(caller: Principal) -> str | None:
    """Return the project whose things exist for a caller; None for an administrator, for whom those of all do."""
    return None if caller.admin else caller.project


Caller = Annotated[Principal, Depends(_require_caller)]
"""A handler with a parameter of this type has a caller, whose scopes the middleware has checked."""

Admin = Annotated[Principal, Depends(_require_admin)]
"""A handler with a parameter of this type needs an admin key."""
