"""The settings of a webhook: where messages go, how they are signed, and which are sent."""

import base64
import binascii
import hashlib
import ipaddress
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

EventType = Literal["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of secrets, by Standard Webhooks
_MIN_SECRET_BYTES = 16


class WebhookSettings(BaseModel):
    """Settings of one webhook."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    url: SecretStr
    """URL to which messages are posted, `https://` or `http://`; it is never shown, because it may contain a token."""
    secret: SecretStr
    """Secret that signs the messages: `whsec_` and at least 16 bytes in Base64, such as
    `whsec_$(openssl rand -base64 32)`."""
    events: Annotated[tuple[EventType, ...], Field(min_length=1)] = get_args(EventType)
    """Events that are sent: `fine_tuning.job.succeeded`, `fine_tuning.job.failed`, `fine_tuning.job.cancelled`."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        """Refuse what can't be posted to, and addresses that are written as link-local, as of metadata servers.

        A name that resolves to one is not refused: whoever sets webhooks administrates the server.
        """
        text = url.get_secret_value()
        try:
            parts = urlsplit(text)
            is_valid = (
                parts.hostname
                and parts.port != 0
                and parts.scheme in {"http", "https"}
                and text.isprintable()
                and " " not in text
            )
        except ValueError:
            is_valid = False
        if not is_valid:
            raise ValueError("expected a URL such as https://example.com/hooks/loramux")
        if parts.username or parts.password:
            raise ValueError("a user name or password in the URL is not supported: receivers check the signature")
        if _is_link_local(parts.hostname or ""):
            raise ValueError("link-local addresses are not supported")
        return url

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, secret: SecretStr) -> SecretStr:
        if len(signing_key(secret) or b"") < _MIN_SECRET_BYTES:
            raise ValueError(
                "expected whsec_ and at least 16 bytes in Base64: make one with "
                '`echo "whsec_$(openssl rand -base64 32)"`'
            )
        return secret

    @property
    def id(self) -> str:
        """Identifies the webhook in the database, where URLs are not stored."""
        return hashlib.sha256(self.url.get_secret_value().encode()).hexdigest()[:32]

    @property
    def host(self) -> str:
        """The URL's host, for logs: the rest of the URL may be secret."""
        return urlsplit(self.url.get_secret_value()).hostname or ""

    @property
    def key(self) -> bytes:
        """The secret's bytes."""
        return signing_key(self.secret) or b""


def signing_key(secret: SecretStr) -> bytes | None:
    """Return the bytes of a `whsec_` secret, None if it is not one."""
    text = secret.get_secret_value()
    if not text.startswith(SECRET_PREFIX):
        return None
    try:
        return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None


def _is_link_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False
