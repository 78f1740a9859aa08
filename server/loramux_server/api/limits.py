"""`/admin/limits`: limits and budgets of API keys, projects and adapters."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin
from loramux_server.errors import InvalidRequest
from loramux_server.limits.account import Account
from loramux_server.limits.limit import EVERY, NANODOLLARS, Limit, Subject, SubjectKind
from loramux_server.limits.server_limits import ServerLimits
from loramux_server.limits.service import DefinedLimit

Name = Annotated[
    str,
    Path(
        min_length=1,
        max_length=128,
        pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/-]*)$",
        description="A key's id, the name of a project or an adapter, or `*` for each of them that has no own limit.",
    ),
]


class Used(BaseModel):
    """What a subject has used since it was first limited, or since the start of the day or month."""

    tokens_today: int
    tokens_this_month: int
    usd_today: float
    usd_this_month: float
    running_requests: int
    reserved_tokens: Annotated[int, Field(description="By the running requests, in addition.")]

    @classmethod
    def of(cls, account: Account) -> "Used":
        """Return the schema of an account."""
        return cls(
            tokens_today=account.day.tokens,
            tokens_this_month=account.month.tokens,
            usd_today=account.day.nanodollars / NANODOLLARS,
            usd_this_month=account.month.nanodollars / NANODOLLARS,
            running_requests=len(account.holds),
            reserved_tokens=sum(hold.tokens for hold in account.holds.values()),
        )


class SubjectLimits(BaseModel):
    """The limits of a key, a project or an adapter."""

    kind: SubjectKind
    name: Annotated[str, Field(description="`*` stands for each one that has no limit of its own.")]
    limits: dict[str, Any]
    source: Annotated[str, Field(description="`settings` or `api`.")]
    changed_at: Annotated[str | None, Field(description="ISO 8601, UTC; null if they are from the settings.")]
    by: Annotated[str | None, Field(description="Id of the API key that set them.")]
    used: Annotated[Used | None, Field(description="Null before its first request.")]

    @classmethod
    def of(cls, defined: DefinedLimit, account: Account | None) -> "SubjectLimits":
        """Return the schema of the limits of a subject."""
        stored = defined.stored
        return cls(
            kind=defined.subject.kind,
            name=defined.subject.name,
            limits=defined.limit.model_dump(mode="json", exclude_none=True),
            source="api" if stored else "settings",
            changed_at=datetime.fromtimestamp(stored.changed_at, UTC).isoformat() if stored else None,
            by=stored.actor if stored else None,
            used=Used.of(account) if account else None,
        )


class LimitList(BaseModel):
    """All limits that are defined."""

    data: Sequence[SubjectLimits]


class Removed(BaseModel):
    """A subject whose limits were removed."""

    kind: SubjectKind
    name: str
    removed: bool = True


def limits_router(limits: ServerLimits) -> APIRouter:
    """Return /admin/limits."""
    router = APIRouter(prefix="/admin/limits", tags=["limits"], responses=error_responses())
    service = limits.service

    @router.get("")
    async def list_limits(_: Admin) -> LimitList:
        """List all limits, with what their subjects have used."""
        found = [(defined, await limits.accounts.used(defined.subject)) for defined in service.all()]
        return LimitList(data=[SubjectLimits.of(*one) for one in found])

    @router.put("/{kind}/{name:path}")
    async def set_limits(kind: SubjectKind, name: Name, new: Limit, by: Admin) -> SubjectLimits:
        """Replace the limits of a subject, on all servers that share the database; a limit that is not named is unset.

        What the subject has used already counts.
        """
        if not new.values:
            raise InvalidRequest(f"Name at least one limit: {', '.join(Limit.model_fields)}.")
        defined = await service.set(Subject(kind, name), new, by.key_id)
        return SubjectLimits.of(defined, await limits.accounts.used(defined.subject))

    @router.delete("/{kind}/{name:path}", responses=error_responses(404))
    async def remove_limits(kind: SubjectKind, name: Name, _: Admin) -> Removed:
        """Remove the limits of a subject that were set at run time; those of the settings apply again."""
        if not await service.remove(Subject(kind, name)):
            also = f" Those of {EVERY} and of the settings can't be removed here." if name != EVERY else ""
            raise InvalidRequest(f"No limits are set for {kind} {name}.{also}", status=404, code="limit_not_found")
        return Removed(kind=kind, name=name)

    return router
