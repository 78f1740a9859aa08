"""`/admin/keys`: API keys that are issued, rotated and revoked at run time."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.models import DEFAULT_PROJECT
from loramux_adapters.registry.tables import MAX_MODEL_LENGTH
from loramux_server.api.error_schemas import error_responses
from loramux_server.api.permissions import Admin
from loramux_server.auth import Scope
from loramux_server.errors import InvalidRequest
from loramux_server.keys.models import ApiKey, IssuedKey, KeyGrant, KeySecret, KeyStatus
from loramux_server.keys.service import ApiKeys
from loramux_server.metering.ledger.time_range import MAX_SECONDS, SECONDS_PER_DAY

DEFAULT_OVERLAP_SECONDS = SECONDS_PER_DAY
MAX_OVERLAP_SECONDS = 90 * SECONDS_PER_DAY
MAX_PATTERNS = 100

GroupName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
_Pattern = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_LENGTH, pattern=r"^[\x21-\x7e]+$")]
_Time = Annotated[float | None, Field(description="Unix seconds.")]


class NewKey(BaseModel):
    """What a key is for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=64, pattern=r"^[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$")]
    scopes: Annotated[
        list[Annotated[Scope, Field(strict=False)]],
        Field(min_length=1, description="`infer`, `finetune`; `admin` implies the others, in all projects."),
    ] = [Scope.INFER]
    project: Annotated[
        GroupName, Field(description="Files, jobs, adapters, stored responses and usage belong to it, not to the key.")
    ] = DEFAULT_PROJECT
    organisation: Annotated[
        GroupName | None, Field(description="That of the project; null for the one that it has, or `default`.")
    ] = None
    models: Annotated[
        list[_Pattern] | None,
        Field(
            min_length=1,
            max_length=MAX_PATTERNS,
            description="Patterns (`*`, `?`, `[...]`) of the models that the key may use; "
            "null for the base and the adapters of the project.",
        ),
    ] = None
    expires_at: Annotated[
        float | None, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False, description="Unix seconds; null for never.")
    ] = None

    def grant(self, now: float) -> KeyGrant:
        """Return what the key is for.

        Raises:
            InvalidRequest: the fields contradict each other, or the key would have expired.
        """
        if self.expires_at is not None and self.expires_at <= now:
            raise InvalidRequest("`expires_at` is in the past; expected a later time.", param="expires_at")
        if Scope.ADMIN in self.scopes and self.models is not None:
            raise InvalidRequest("A key with the scope `admin` may use all models: leave out `models`.", param="models")
        return KeyGrant(
            name=self.name,
            scopes=frozenset(self.scopes),
            project=self.project,
            organisation=self.organisation,
            models=None if self.models is None else tuple(self.models),
            expires_at=self.expires_at,
        )


class Rotation(BaseModel):
    """How a secret is replaced."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overlap_seconds: Annotated[
        float,
        Field(ge=0, le=MAX_OVERLAP_SECONDS, allow_inf_nan=False, description="How long the old secret still works."),
    ] = DEFAULT_OVERLAP_SECONDS


class Secret(BaseModel):
    """A secret of a key, without the secret."""

    prefix: Annotated[str, Field(description="How the secret starts.")]
    created_at: _Time
    expires_at: _Time
    last_used_at: _Time

    @classmethod
    def of(cls, secret: KeySecret) -> Self:
        """Return the schema of a secret."""
        return cls(
            prefix=secret.prefix,
            created_at=secret.created_at,
            expires_at=secret.expires_at,
            last_used_at=secret.last_used_at,
        )


class Key(BaseModel):
    """An API key, without its secrets."""

    id: Annotated[str, Field(description="Stays when the secret is rotated; usage and limits refer to it.")]
    name: str
    status: KeyStatus
    scopes: Sequence[Scope]
    project: str
    organisation: str
    models: Sequence[str] | None
    created_at: _Time
    created_by: Annotated[str, Field(description="Id of the key that created it.")]
    expires_at: _Time
    revoked_at: _Time
    last_used_at: Annotated[float | None, Field(description="Unix seconds, up to some seconds late.")]
    secrets: Annotated[Sequence[Secret], Field(description="Oldest first; several while a rotation overlaps.")]

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """Return the schema of a key."""
        return cls(
            id=key.id,
            name=key.grant.name,
            status=key.status(time.time()),
            scopes=sorted(key.grant.scopes),
            project=key.principal.project,
            organisation=key.principal.organisation,
            models=key.grant.models,
            created_at=key.created_at,
            created_by=key.created_by,
            expires_at=key.grant.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
            secrets=[Secret.of(secret) for secret in key.secrets],
        )


class Issued(Key):
    """A key with its new secret."""

    key: Annotated[str, Field(description="The secret, which clients send; it is shown only here.")]

    @classmethod
    def of_new(cls, issued: IssuedKey) -> Self:
        """Return the schema of a key with its secret."""
        return cls(key=issued.secret, **Key.of(issued.key).model_dump())


class Keys(BaseModel):
    """API keys, newest first."""

    data: Sequence[Key]


def keys_router(keys: ApiKeys, *, is_open: bool) -> APIRouter:
    """Return the routes; `is_open` if the server asks for no keys."""
    router = APIRouter(prefix="/admin/keys", tags=["keys"], responses=error_responses())

    @router.get("")
    async def list_keys(_: Admin, project: Annotated[GroupName | None, Query()] = None) -> Keys:
        """List all keys, or those of a project, with those that have expired or are revoked."""
        return Keys(data=[Key.of(key) for key in await asyncio.to_thread(keys.all, project)])

    @router.post("", responses=error_responses(409))
    async def create_key(new: NewKey, by: Admin) -> Issued:
        """Create a key, which all servers that share the database accept within seconds."""
        if is_open:
            message = (
                "This server asks for no keys: set `api_keys` (LORAMUX_API_KEYS) to a key of yours, and restart it."
            )
            raise InvalidRequest(message, status=409, code="keys_not_used")
        return Issued.of_new(await asyncio.to_thread(keys.create, new.grant(time.time()), by.key_id))

    @router.get("/{key_id}", responses=error_responses(404))
    async def show_key(key_id: str, _: Admin) -> Key:
        """Show one key."""
        return Key.of(await asyncio.to_thread(keys.get, key_id))

    @router.post("/{key_id}/rotate", responses=error_responses(404, 409))
    async def rotate_key(key_id: str, by: Admin, rotation: Rotation | None = None) -> Issued:
        """Give the key a new secret; the old one works for a day more, or as long as you say."""
        overlap = (rotation or Rotation()).overlap_seconds
        return Issued.of_new(await asyncio.to_thread(keys.rotate, key_id, overlap, by.key_id))

    @router.delete("/{key_id}", responses=error_responses(404))
    async def revoke_key(key_id: str, by: Admin) -> Key:
        """Revoke the key for good: here immediately, on other servers within seconds. Running requests end normally."""
        return Key.of(await asyncio.to_thread(keys.revoke, key_id, by.key_id))

    return router
