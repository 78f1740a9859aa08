"""Keys and URLs of providers whose fine-tunes are imported, from the environment: keys are in no file and no option."""

import os

from pydantic import SecretStr


def provider_key(variable: str) -> SecretStr | None:
    """Return the key in an environment variable, without surrounding whitespace; None if there is none."""
    key = os.environ.get(variable, "").strip()
    return SecretStr(key) if key else None


def provider_url(variable: str | None) -> str | None:
    """Return the URL in an environment variable; None if there is none."""
    return (os.environ.get(variable, "").strip() if variable else "") or None
