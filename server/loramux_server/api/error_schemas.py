"""OpenAPI schemas and descriptions of error responses."""

from typing import Annotated, Any

from pydantic import BaseModel, Field


class ErrorDetails(BaseModel):
    """Details of an error."""

    message: Annotated[str, Field(description="Human-readable message.")]
    type: str
    param: Annotated[str | None, Field(description="Invalid field of the request.")]
    code: Annotated[str | None, Field(description="Stable identifier for programs.")]


class ErrorBody(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorDetails


_DESCRIPTIONS: dict[int | str, str] = {
    400: "Invalid request or files; the message says which field or file.",
    401: "Missing or unknown API key.",
    403: "Not an admin key, or a folder or URL from which adapters may not be added.",
    404: "Unknown adapter, version, file or job.",
    409: "Conflict with the present state: name taken, version or file in use, job finished.",
    413: "The body is larger than the largest accepted file.",
    429: "The job queue is full.",
    502: "The Hub or object store does not respond, lacks the files, or denies access.",
    503: "Not served at present, or all adapters in the engine are in use.",
    "default": "Any other error, in the same format.",
}

# The class needs a name that vLLM's schemas don't have: FastAPI writes a longer one otherwise.
_SCHEMA = {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses for `statuses` and for the errors of every operation."""
    documented = (400, 401, 403, *statuses)
    # FastAPI builds a validator for each response with a model. One is enough to have the schema described.
    content = {"application/json": {"schema": _SCHEMA}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _DESCRIPTIONS[status], "content": content} for status in documented
    }
    # "default" also keeps FastAPI from describing its 422, which is a 400 here.
    return responses | {"default": {"model": ErrorBody, "description": _DESCRIPTIONS["default"]}}
