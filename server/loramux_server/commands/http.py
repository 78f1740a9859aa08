"""How commands talk to a server: one request, its answer as JSON, and its errors in words."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

words = Console(stderr=True, highlight=False)  # standard output is for results

Url = Annotated[str, typer.Option(envvar="LORAMUX_CLI_URL", help="Where the server is.")]
ApiKey = Annotated[str | None, typer.Option(envvar="LORAMUX_CLI_API_KEY", help="A key of the server's, if it has any.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the server answered, for programs.")]

DEFAULT_URL = "http://127.0.0.1:8000"
SECONDS = 600.0
"""How long the server may be silent."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


def call(method: str, url: str, path: str, api_key: str | None, body: object = None, seconds: float = SECONDS) -> Any:
    """Send a request and return the answer's JSON; a refusal or a silent server ends the command with exit code 1."""
    try:
        address = url.rstrip("/") + path
        response = httpx.request(method, address, json=body, headers=_headers(api_key), timeout=seconds)
        answer = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _silent(url, error) from error
    if response.is_error:
        raise _ended(str(answer.get("error", {}).get("message", answer)))
    return answer


def add(
    url: str, api_key: str | None, body: Mapping[str, Any], upload: Path | None, tell: Callable[[str], None]
) -> Any:
    """Add an adapter, with its files if `upload` is their folder; `tell` what the server does, return the version."""
    headers = _headers(api_key) | {"accept": "application/x-ndjson"}
    address = url.rstrip("/") + "/admin/adapters"
    try:
        with ExitStack() as stack:
            given: dict[str, Any] = {"json": body} if upload is None else {"data": body, "files": _files(stack, upload)}
            response = stack.enter_context(httpx.stream("POST", address, headers=headers, timeout=SECONDS, **given))
            for line in map(json.loads, response.iter_lines()):
                if "error" in line:
                    raise _ended(str(line["error"]["message"]))
                if "version" in line:
                    return line["version"]
                tell(line["progress"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _silent(url, error) from error
    raise _ended("the server ended before the adapter was added; it goes on when the server starts again")


def _files(stack: ExitStack, folder: Path) -> dict[str, Any]:
    """The adapter's files in `folder`, opened; they are sent as they are read."""
    try:
        return {name: stack.enter_context((folder / name).open("rb")) for name in FILES}
    except OSError as error:
        raise _ended(f"{error.filename} can't be read: {error.strerror}") from error


def _headers(api_key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _silent(url: str, error: Exception) -> typer.Exit:
    return _ended(f"no loramux server answers at {url} ({error}): start one with `loramux serve`")


def _ended(reason: str) -> typer.Exit:
    words.print(reason, style="red", markup=False)
    return typer.Exit(1)
