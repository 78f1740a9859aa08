"""API keys of providers whose fine-tunes are imported: only from the environment, never from a file or an option."""

import os

from pydantic import SecretStr


def provider_key(variable: str) -> SecretStr | None:
    """Return the key in an environment variable, without surrounding whitespace; None if there is none."""
    key = os.environ.get(variable, "").strip()
    return SecretStr(key) if key else None
