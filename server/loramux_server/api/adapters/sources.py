"""Request bodies of `POST /admin/adapters`: a source as JSON, or the files as a multipart form."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from loramux_adapters.intake.chat.companions import COMPANION_LIMITS
from loramux_adapters.intake.content import ADAPTER_FILES, CONFIG_FILE
from loramux_adapters.intake.sources import Source
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.sources.hub import HubSource
from loramux_adapters.intake.sources.objects import UrlSource
from loramux_adapters.intake.sources.upload import UploadSource
from loramux_adapters.intake.weight_index import MAX_SHARDS
from loramux_adapters.models import AdapterName, parse_adapter_name
from loramux_server.errors import InvalidRequest

T = TypeVar("T", bound=BaseModel)

_MAX_FILES = MAX_SHARDS + 16
"""Number of files in an upload: the weights may be in several, with the files of a tokenizer."""


class _RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FolderReference(_RequestBody):
    """A folder on the server, inside one of its LORAMUX_ALLOWED_ROOTS."""

    type: Literal["folder"]
    path: Annotated[Path, Field(description="In PEFT's format: adapter_config.json and adapter_model.safetensors.")]


class HubReference(_RequestBody):
    """A Hugging Face Hub repository; a branch or tag is resolved to its present commit."""

    type: Literal["hub"]
    repo: Annotated[str, Field(description="ORG/NAME, or ORG/NAME/FOLDER")]
    revision: Annotated[str | None, Field(description="Branch, tag or commit; by default the main branch.")] = None


class UrlReference(_RequestBody):
    """A folder in an object store, inside one of the server's LORAMUX_ALLOWED_URLS."""

    type: Literal["url"]
    url: Annotated[str, Field(description="Such as s3://bucket/adapters/tone; the server has the credentials.")]


class UploadForm(_RequestBody):
    """An uploaded adapter, or a new version of an existing one: its name, and its files in PEFT's format."""

    name: Annotated[
        str, Field(description="Letters, digits and . _ : - in parts separated by /, at most 128 characters.")
    ]
    promote: Annotated[bool, Field(description="Whether to point the name at the new version.")] = True


class NewAdapter(UploadForm):
    """An adapter to add, or a new version of an existing one, and its source."""

    source: Annotated[FolderReference | HubReference | UrlReference, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class AddRequest:
    """A parsed request; call `close` at the end, because an upload's files are open."""

    name: AdapterName
    source: Source
    promote: bool
    close: Callable[[], Awaitable[object]]


async def read_add_request(request: Request, roots: Sequence[Path], urls: Sequence[str]) -> AddRequest:
    """Parse a request's body.

    Raises:
        RequestValidationError: the body does not match its schema.
        InvalidRequest: the body is neither JSON nor a form, or has a part twice.
        AdapterError: the name is invalid, or the source is not allowed.

    """
    async with AsyncExitStack() as stack:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            form = await stack.enter_async_context(request.form(max_files=_MAX_FILES, max_fields=2))
            name, source, promote = _parse_form(form)
        else:
            body = _validate(NewAdapter, await _json(request))
            name, source, promote = body.name, _source(body.source, roots, urls), body.promote
        return AddRequest(parse_adapter_name(name), source, promote, stack.pop_all().aclose)


def _source(
    reference: FolderReference | HubReference | UrlReference, roots: Sequence[Path], urls: Sequence[str]
) -> Source:
    match reference:
        case FolderReference():
            return FolderSource(reference.path, roots)
        case HubReference():
            return HubSource(reference.repo, reference.revision)
        case UrlReference():
            return UrlSource(reference.url, urls)


def _parse_form(form: FormData) -> tuple[str, Source, bool]:
    files: dict[str, BinaryIO] = {}
    fields: dict[str, str] = {}
    for key, value in form.multi_items():
        if key in files or key in fields:
            raise InvalidRequest("The form has two parts with this name.", param=key[:80])
        if isinstance(value, UploadFile):
            files[key] = value.file
        else:
            fields[key] = value
    body = _validate(UploadForm, fields)
    return body.name, UploadSource(files), body.promote


def _validate(model: type[T], content: Any) -> T:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise RequestValidationError([problem | {"loc": ("body", *problem["loc"])} for problem in problems]) from error


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The body is neither JSON nor a multipart form.") from error


def _inlined_schema() -> dict[str, Any]:
    """Return NewAdapter's schema without references, because OpenAPI's document has no place for its `$defs`."""
    schema = NewAdapter.model_json_schema()
    schema["properties"]["source"] = {"oneOf": list(schema.pop("$defs").values())}
    return schema


_FORM = UploadForm.model_json_schema()
_FILES = {name: {"type": "string", "format": "binary"} for name in (*ADAPTER_FILES, *COMPANION_LIMITS)}

REQUEST_BODY_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _inlined_schema()},
            "multipart/form-data": {
                "schema": _FORM
                | {"properties": _FORM["properties"] | _FILES, "required": [*_FORM["required"], CONFIG_FILE]}
            },
        },
    }
}
"""OpenAPI description of the body; FastAPI itself can describe only one content type."""
