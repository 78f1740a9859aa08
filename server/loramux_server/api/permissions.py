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


Admin = Annotated[Principal, Depends(_require_admin)]
"""A handler with a parameter of this type needs an admin key."""
