"""Limits of a connection: what a client may send before its request is handled, and how slowly."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class ConnectionLimits(BaseModel):
    """Limits of each connection, so that no client holds memory or a connection for longer than it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    """Maximum size in bytes of a request's URL and headers together."""
    headers: PositiveInt = 100
    """Maximum number of a request's headers."""
    header_seconds: PositiveFloat = 20.0
    """Seconds that a client may take to send the URL and headers of a request."""
    body_seconds: PositiveFloat = 30.0
    """Seconds in which a client must send some of the body: on average 1000 bytes per second, or all that is left."""
    send_seconds: PositiveFloat = 60.0
    """Seconds that a client may let a response wait, without reading any of it; then its request is cancelled."""
