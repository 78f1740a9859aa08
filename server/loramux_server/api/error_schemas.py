"""How the administration's operations can fail, as OpenAPI describes it."""

from typing import Annotated, Any

from pydantic import BaseModel, Field


class ErrorDetails(BaseModel):
    """What went wrong."""

    message: Annotated[str, Field(description="For people.")]
    type: str
    param: Annotated[str | None, Field(description="The field of the request that is wrong.")]
    code: Annotated[str | None, Field(description="For programs: it never changes.")]


class Problem(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorDetails


_REASONS: dict[int | str, str] = {
    400: "The request is wrong, or the files are not what they should be: the message says where.",
    401: "No key, or one that is not known.",
    403: "The key is no administrator's, or adapters may not come from that folder or URL.",
    404: "No such adapter, version, file or job.",
    409: "Against what is registered: a name that is taken, a version or file in use, a job that has ended.",
    413: "The body is larger than any file that is taken here.",
    429: "As many jobs wait as may.",
    502: "The Hub or the object store does not answer, does not have the files, or does not let us in.",
    503: "Out of service, or every place in the engine is in use.",
    "default": "Any other error, in the same shape.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the statuses with which an operation can fail, beside those of every operation."""
    # "default" also keeps FastAPI from describing its 422, which is a 400 here.
    shown: tuple[int | str, ...] = (400, 401, 403, *statuses, "default")
    return {status: {"model": Problem, "description": _REASONS[status]} for status in shown}
