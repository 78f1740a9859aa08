"""Fields that uploads of files share, in one request or in parts: purpose, name, and time of expiry."""

import re
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData

from loramux_adapters.finetuning.jobs.errors import InvalidFile

PURPOSE: Final = "fine-tune"
OtherPurpose = Literal["assistants", "assistants_output", "batch", "batch_output", "evals", "user_data", "vision"]
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\ufffd]")
_MAX_NAME_LENGTH = 255
_MIN_SECONDS, _MAX_SECONDS = 3600, 30 * 24 * 3600


class ExpiresAfter(BaseModel):
    """When a file expires, in OpenAI's form."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=_MIN_SECONDS, le=_MAX_SECONDS)]


def require_fine_tune(purpose: object) -> None:
    """Accept the one purpose of files on this server.

    Raises:
        InvalidFile: it is another one.
    """
    if purpose == PURPOSE:
        return
    known = f"the purpose `{purpose}` is not supported" if purpose in get_args(OtherPurpose) else "unknown purpose"
    raise InvalidFile(f"purpose: {known}; expected `{PURPOSE}`: this server takes files for training.", param="purpose")


def printable_name(filename: str | None) -> str:
    """Return a client's name of a file, to be shown and never used as a path; any name is accepted."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", filename or "")[:_MAX_NAME_LENGTH] or "upload"


def expiry_seconds(form: FormData) -> int | None:
    """Return the seconds after which the file of a form expires, None if never.

    Raises:
        InvalidFile: `expires_after[anchor]` and `expires_after[seconds]` are not what OpenAI's API takes.
    """
    prefix = "expires_after["
    given = {key.removeprefix(prefix).removesuffix("]"): form[key] for key in form if key.startswith(prefix)}
    if not given:
        return None
    try:
        return ExpiresAfter.model_validate(given).seconds
    except ValidationError as error:
        raise InvalidFile(
            f"expires_after: expected the anchor `created_at` and {_MIN_SECONDS} to {_MAX_SECONDS} seconds.",
            param="expires_after",
        ) from error
