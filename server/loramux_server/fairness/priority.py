"""Priority classes of requests, from OpenAI's `service_tier` or vLLM's `priority`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Priority(StrEnum):
    """The priority class of a run."""

    INTERACTIVE = "interactive"
    DEFAULT = "default"
    BATCH = "batch"


_TIERS = {"priority": Priority.INTERACTIVE, "flex": Priority.BATCH, "batch": Priority.BATCH}


def from_body(body: Mapping[str, Any]) -> Priority:
    """Return the class that a request's body asks for, in any of its fields; invalid fields are left to vLLM."""
    number = body.get("priority")
    if isinstance(number, int) and number:
        return from_number(number)
    tier = body.get("service_tier")
    return _TIERS.get(tier, Priority.DEFAULT) if isinstance(tier, str) else Priority.DEFAULT


def from_number(priority: int) -> Priority:
    """Return the class of a number, of which lower ones are earlier, as in vLLM."""
    if priority < 0:
        return Priority.INTERACTIVE
    return Priority.BATCH if priority else Priority.DEFAULT
