"""Lenient reading of a JSON object in text that someone else wrote: a model, a server or a file."""

import json
from typing import Any


def parse_json_object(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `text` consists of, None if it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
