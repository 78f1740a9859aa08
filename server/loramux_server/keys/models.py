"""API keys and their secrets, as values."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from loramux_adapters.models import DEFAULT_PROJECT
from loramux_server.auth import Principal, Scope

SECRET_PREFIX = "sk-loramux-"  # noqa: S105 - what all secrets start with
_SECRET_BYTES = 32
_VISIBLE_CHARACTERS = 4
_ID_BYTES = 10


class KeyStatus(StrEnum):
    """Whether a key can be used."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What a new key is for; `expires_at` in Unix seconds, None for never."""

    name: str
    scopes: frozenset[Scope]
    project: str = DEFAULT_PROJECT
    organisation: str | None = None
    """None: that of the project."""
    models: tuple[str, ...] | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class KeySecret:
    """The stored form of a secret: its SHA-256 in hex, and its first characters; times in Unix seconds."""

    digest: str
    prefix: str
    created_at: float
    expires_at: float | None = None
    last_used_at: float | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, which keeps its id while its secrets are rotated; times in Unix seconds."""

    id: str
    grant: KeyGrant
    created_at: float
    created_by: str
    revoked_at: float | None = None
    revoked_by: str | None = None
    secrets: Sequence[KeySecret] = ()
    """Oldest first."""

    @property
    def principal(self) -> Principal:
        """The caller that the key identifies."""
        grant = self.grant
        organisation = grant.organisation or DEFAULT_PROJECT
        return Principal(self.id, grant.scopes, grant.project, organisation, grant.models)

    @property
    def last_used_at(self) -> float | None:
        """When any of its secrets was last used, None if never."""
        return max((secret.last_used_at for secret in self.secrets if secret.last_used_at is not None), default=None)

    def status(self, now: float) -> KeyStatus:
        """Return whether the key can be used at a time."""
        if self.revoked_at is not None:
            return KeyStatus.REVOKED
        return KeyStatus.ACTIVE if now < until(self.grant.expires_at) else KeyStatus.EXPIRED


@dataclass(frozen=True)
class IssuedKey:
    """A key with its new secret, which is shown once and stored nowhere."""

    key: ApiKey
    secret: str = field(repr=False)


def until(expires_at: float | None) -> float:
    """Return an optional time of expiry as a number."""
    return inf if expires_at is None else expires_at


def new_id() -> str:
    """Return a new random id of a key."""
    return f"key_{secrets.token_hex(_ID_BYTES)}"


def new_secret() -> str:
    """Return a new secret with 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def stored_secret(secret: str, now: float) -> KeySecret:
    """Return what is stored of a secret."""
    visible = secret[: len(SECRET_PREFIX) + _VISIBLE_CHARACTERS]
    return KeySecret(hashlib.sha256(secret.encode()).hexdigest(), visible, now)
