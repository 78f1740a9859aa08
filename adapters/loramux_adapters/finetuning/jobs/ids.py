"""Ids of files, uploads, jobs, events and checkpoints: OpenAI's prefixes and 96 random bits."""

import re
import secrets
from typing import Literal

Kind = Literal["file", "ftjob", "ftevent", "ftckpt", "upload", "part"]

_ID = re.compile(r"(file|ftjob|ftevent|ftckpt|upload|part)-[0-9a-f]{24}")


def new_id(kind: Kind) -> str:
    """Return a new random id."""
    return f"{kind}-{secrets.token_hex(12)}"


def is_id(text: str, kind: Kind) -> bool:
    """Whether the text has the form of an id of this kind; only then it may be part of a path."""
    found = _ID.fullmatch(text)
    return found is not None and found[1] == kind
