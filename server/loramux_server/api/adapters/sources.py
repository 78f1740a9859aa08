"""What `POST /admin/adapters` may be given: a source by JSON, or the files themselves as a multipart form."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from loramux_adapters.intake.content import ADAPTER_FILES
from loramux_adapters.intake.sources import Source
from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.intake.sources.hub import HubSource
from loramux_adapters.intake.sources.objects import UrlSource
from loramux_adapters.intake.sources.upload import UploadSource
from loramux_adapters.models import AdapterName, parse_adapter_name
from loramux_server.errors import InvalidRequest

T = TypeVar("T", bound=BaseModel)


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FolderOrigin(_Given):
    """A folder on the server's machine, inside one of its LORAMUX_ALLOWED_ROOTS."""

    type: Literal["folder"]
    path: Annotated[Path, Field(description="As PEFT saves it: adapter_config.json and adapter_model.safetensors.")]


class HubOrigin(_Given):
    """A repository of the Hugging Face Hub; what its branch or tag means now is what is fetched and remembered."""

    type: Literal["hub"]
    repo: Annotated[str, Field(description="ORG/NAME")]
    revision: Annotated[str | None, Field(description="A branch, tag or commit; the main branch if none.")] = None


class UrlOrigin(_Given):
    """A folder of an object store, inside one of the server's LORAMUX_ALLOWED_URLS."""

    type: Literal["url"]
    url: Annotated[str, Field(description="Such as s3://bucket/adapters/tone; credentials come from the server.")]


class UploadForm(_Given):
    """An adapter to accept, or a new version of one that exists: its name, and its files as PEFT saves them."""

    name: Annotated[str, Field(description="Letters, digits and . _ : - in parts divided by /, up to 128 in all.")]
    promote: Annotated[bool, Field(description="Whether the bare name leads to it from now on.")] = True


class NewAdapter(UploadForm):
    """An adapter to accept, or a new version of one that exists, and where it is."""

    source: Annotated[FolderOrigin | HubOrigin | UrlOrigin, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class Addition:
    """What a request asks to add; `close` must be called in the end, because the files of an upload are open."""

    name: AdapterName
    source: Source
    promote: bool
    close: Callable[[], Awaitable[object]]


async def read_addition(request: Request, roots: Sequence[Path], urls: Sequence[str]) -> Addition:
    """Read a request's body; raises RequestValidationError, InvalidRequest, AdapterError."""
    async with AsyncExitStack() as opened:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            form = await opened.enter_async_context(request.form(max_files=len(ADAPTER_FILES), max_fields=2))
            name, source, promote = _uploaded(form)
        else:
            new = _validated(NewAdapter, await _json(request))
            name, source, promote = new.name, _source(new.source, roots, urls), new.promote
        return Addition(parse_adapter_name(name), source, promote, opened.pop_all().aclose)


def _source(origin: FolderOrigin | HubOrigin | UrlOrigin, roots: Sequence[Path], urls: Sequence[str]) -> Source:
    match origin:
        case FolderOrigin():
            return FolderSource(origin.path, roots)
        case HubOrigin():
            return HubSource(origin.repo, origin.revision)
        case UrlOrigin():
            return UrlSource(origin.url, urls)


def _uploaded(form: FormData) -> tuple[str, Source, bool]:
    files: dict[str, BinaryIO] = {}
    fields: dict[str, str] = {}
    for key, value in form.multi_items():
        if key in files or key in fields:
            raise InvalidRequest("The form has a part twice.", param=key[:80])
        if isinstance(value, UploadFile):
            files[key] = value.file
        else:
            fields[key] = value
    given = _validated(UploadForm, fields)
    return given.name, UploadSource(files), given.promote


def _validated(model: type[T], content: Any) -> T:
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


def _described() -> dict[str, Any]:
    """NewAdapter's schema in one piece: what it refers to has no place in OpenAPI's document."""
    schema = NewAdapter.model_json_schema()
    schema["properties"]["source"] = {"oneOf": list(schema.pop("$defs").values())}
    return schema


_FORM = UploadForm.model_json_schema()
_FILES = {name: {"type": "string", "format": "binary"} for name in ADAPTER_FILES}

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _described()},
            "multipart/form-data": {
                "schema": _FORM
                | {"properties": _FORM["properties"] | _FILES, "required": [*_FORM["required"], *ADAPTER_FILES]}
            },
        },
    }
}
"""The body in OpenAPI's words, of which FastAPI itself can write one kind only."""
