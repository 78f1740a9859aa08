"""HTTP client of the commands: requests, JSON responses and error messages."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.markup import escape
from rich.progress import Progress
from rich.status import Status

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, check_listing, resolve_inside
from loramux_adapters.intake.sources.selection import adapter_files
from loramux_server.cli.console import byte_progress, fail, stderr

Url = Annotated[str, typer.Option(envvar="LORAMUX_CLI_URL", help="The server's URL.")]
ApiKey = Annotated[str | None, typer.Option(envvar="LORAMUX_CLI_API_KEY", help="API key, if the server needs one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's response as JSON.")]

Query = Mapping[str, str | int]

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 600.0
"""Longest wait for a response, or for its next part."""


@dataclass(frozen=True, slots=True)
class ApiClient:
    """Client of a running server. An error response, or no response, ends the command with exit code 1."""

    url: str
    api_key: str | None

    def call(self, method: str, path: str, body: object = None, query: Query | None = None) -> Any:
        """Send a request and return the JSON of its response."""
        try:
            return self._request(method, path, body, query).json()
        except ValueError as error:
            self.fail_unreachable(error)

    def find(self, path: str) -> Any:
        """Return the JSON at `path`, None if the server has nothing there."""
        try:
            with self.stream(path) as response:
                response.read()
                if response.status_code == httpx.codes.NOT_FOUND:
                    return None
                content = response.json()
        except (httpx.HTTPError, ValueError) as error:
            self.fail_unreachable(error)
        return fail(error_message(content)) if response.is_error else content

    def text(self, path: str, query: Query | None = None) -> str:
        """Return the text at `path`."""
        return self._request("GET", path, None, query).text

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """Open the response to a GET of `path`, of any status; transport errors are the caller's."""
        every = self._headers | dict(headers or {})
        try:
            with httpx.stream("GET", self._url(path), headers=every, timeout=TIMEOUT_SECONDS) as response:
                yield response
        except httpx.InvalidURL as error:
            self.fail_unreachable(error)

    def _request(self, method: str, path: str, body: object, query: Query | None) -> httpx.Response:
        try:
            response = httpx.request(
                method, self._url(path), json=body, params=query, headers=self._headers, timeout=TIMEOUT_SECONDS
            )
            if response.is_error:
                fail(error_message(response.json()))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self.fail_unreachable(error)
        return response

    def add_adapter(self, body: Mapping[str, Any], upload: Path | None) -> Any:
        """Add an adapter, uploading its files if `upload` is their folder; show progress and return the version.

        The server continues if the command is interrupted.
        """
        address, headers = self._url("/admin/adapters"), self._headers | {"accept": "application/x-ndjson"}
        content: dict[str, Any] = {"json": body} if upload is None else {"data": body}
        try:
            with ExitStack() as stack:
                with byte_progress() as bar:
                    if upload is not None:
                        content["files"] = _open_adapter_files(stack, bar, upload)
                    request = httpx.stream("POST", address, headers=headers, timeout=TIMEOUT_SECONDS, **content)
                    response = stack.enter_context(request)
                return _follow(response)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self.fail_unreachable(error)

    def upload_file(self, path: Path) -> str:
        """Upload a training file, show progress, and return its id."""
        try:
            with byte_progress() as bar, bar.open(path, "rb", description=path.name) as file:
                response = httpx.post(
                    self._url("/v1/files"),
                    data={"purpose": "fine-tune"},
                    files={"file": (path.name, file)},
                    headers=self._headers,
                    timeout=TIMEOUT_SECONDS,
                )
            content = response.json()
            if response.is_error:
                fail(error_message(content))
            return str(content["id"])
        except OSError as error:
            fail(f"can't read {path}: {error.strerror}")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self.fail_unreachable(error)

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def _url(self, path: str) -> str:
        return self.url.rstrip("/") + path

    def fail_unreachable(self, error: Exception) -> NoReturn:
        """End the command, because no server responds."""
        fail(f"no loramux server responds at {self.url} ({error}): start one with `loramux serve`, or set --url")


def _open_adapter_files(stack: ExitStack, bar: Progress, folder: Path) -> dict[str, Any]:
    """Open the adapter's files in `folder`; `bar` advances as they are read."""
    try:
        present = os.listdir(folder)  # noqa: PTH208 - names, not paths
        check_listing(present, (name for name in present if (folder / name / CONFIG_FILE).is_file()))
        names = adapter_files(present)
        paths = {name: resolve_inside(folder / name) for name in names}
        return {name: stack.enter_context(bar.open(path, "rb", description=name)) for name, path in paths.items()}
    except InvalidAdapter as error:
        fail(f"can't upload {folder}: {error.message}")
    except OSError as error:
        fail(f"can't read {error.filename}: {error.strerror}")


def _follow(response: httpx.Response) -> Any:
    """Show the progress that the server reports, and return the version at its end."""
    with Status("waiting for the server", console=stderr) as status:
        for line in map(json.loads, response.iter_lines()):
            match line:
                case {"progress": step}:
                    status.update(escape(str(step)))
                case {"version": version}:
                    return version
                case _:
                    fail(error_message(line))
    return fail("the server stopped before the adapter was added; it continues when the server is started again")


def error_message(content: Any) -> str:
    """Return the message of an error response."""
    match content:
        case {"error": {"message": str(message)}}:
            return message
    return f"not a response of a loramux server: {str(content)[:200]}"
