"""How commands talk to a server: requests, its answers as JSON, and its errors in words."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.status import Status

words = Console(stderr=True, highlight=False)  # standard output is for results

Url = Annotated[str, typer.Option(envvar="LORAMUX_CLI_URL", help="Where the server is.")]
ApiKey = Annotated[str | None, typer.Option(envvar="LORAMUX_CLI_API_KEY", help="A key of the server's, if it has any.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the server answered, for programs.")]

Query = Mapping[str, str | int]

DEFAULT_URL = "http://127.0.0.1:8000"
SECONDS = 600.0
"""How long the server may be silent."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. What it refuses, and its silence, end the command with the reason and exit code 1."""

    url: str
    api_key: str | None

    def call(self, method: str, path: str, body: object = None, query: Query | None = None) -> Any:
        """Send a request and return the answer's JSON."""
        try:
            return self._answer(method, path, body, query).json()
        except ValueError as error:
            raise self._silent(error) from error

    def text(self, path: str, query: Query | None = None) -> str:
        """Return what is at `path` as it is."""
        return self._answer("GET", path, None, query).text

    def _answer(self, method: str, path: str, body: object, query: Query | None) -> httpx.Response:
        try:
            response = httpx.request(
                method, self._at(path), json=body, params=query, headers=self._headers, timeout=SECONDS
            )
            if response.is_error:
                raise ended(_reason(response.json()))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._silent(error) from error
        return response

    def add(self, body: Mapping[str, Any], upload: Path | None) -> Any:
        """Add an adapter, with its files if `upload` is their folder, while telling how far it is; return the version.

        What has begun goes on if the command is interrupted.
        """
        address, headers = self._at("/admin/adapters"), self._headers | {"accept": "application/x-ndjson"}
        given: dict[str, Any] = {"json": body} if upload is None else {"data": body}
        try:
            with ExitStack() as stack:
                with _sending() as bar:
                    if upload is not None:
                        given["files"] = _files(stack, bar, upload)
                    request = httpx.stream("POST", address, headers=headers, timeout=SECONDS, **given)
                    response = stack.enter_context(request)
                return _last(response)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._silent(error) from error

    def upload(self, path: Path) -> str:
        """Send a training file up while telling how far it is; return its id."""
        try:
            with _sending() as bar, bar.open(path, "rb", description=path.name) as file:
                response = httpx.post(
                    self._at("/v1/files"),
                    data={"purpose": "fine-tune"},
                    files={"file": (path.name, file)},
                    headers=self._headers,
                    timeout=SECONDS,
                )
            answer = response.json()
            if response.is_error:
                raise ended(_reason(answer))
            return str(answer["id"])
        except OSError as error:
            raise ended(f"{path} can't be read: {error.strerror}") from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._silent(error) from error

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def _at(self, path: str) -> str:
        return self.url.rstrip("/") + path

    def _silent(self, error: Exception) -> typer.Exit:
        return ended(f"no loramux server answers at {self.url} ({error}): start one with `loramux serve`, or say --url")


def ended(reason: str) -> typer.Exit:
    """Tell why the command ends here."""
    words.print(reason, style="red", markup=False, soft_wrap=True)
    return typer.Exit(1)


def _sending() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=words, transient=True)


def _files(stack: ExitStack, bar: Progress, folder: Path) -> dict[str, Any]:
    """The adapter's files in `folder`, opened; they are sent as they are read."""
    try:
        return {name: stack.enter_context(bar.open(folder / name, "rb", description=name)) for name in FILES}
    except OSError as error:
        raise ended(f"{error.filename} can't be read: {error.strerror}") from error


def _last(response: httpx.Response) -> Any:
    """Show the progress that the server tells, and return the version at its end."""
    with Status("waiting for the server", console=words) as status:
        for line in map(json.loads, response.iter_lines()):
            match line:
                case {"progress": told}:
                    status.update(escape(str(told)))
                case {"version": version}:
                    return version
                case _:
                    raise ended(_reason(line))
    raise ended("the server ended before the adapter was added; it goes on when the server starts again")


def _reason(answer: Any) -> str:
    match answer:
        case {"error": {"message": str(message)}}:
            return message
    return f"this is not an answer of a loramux server: {str(answer)[:200]}"
