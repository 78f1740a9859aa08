"""How commands talk to a server: one request, its answer as JSON, and its errors in words."""

from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

words = Console(stderr=True, highlight=False)  # standard output is for results

Url = Annotated[str, typer.Option(envvar="LORAMUX_CLI_URL", help="Where the server is.")]
ApiKey = Annotated[str | None, typer.Option(envvar="LORAMUX_CLI_API_KEY", help="A key of the server's, if it has any.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the server answered, for programs.")]

DEFAULT_URL = "http://127.0.0.1:8000"


def call(method: str, url: str, path: str, api_key: str | None, body: object = None, seconds: float = 600) -> Any:
    """Send a request and return the answer's JSON; a refusal or a silent server ends the command with exit code 1."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.request(method, url.rstrip("/") + path, json=body, headers=headers, timeout=seconds)
        answer = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _ended(f"no loramux server answers at {url} ({error}): start one with `loramux serve`") from error
    if response.is_error:
        raise _ended(str(answer.get("error", {}).get("message", answer)))
    return answer


def _ended(reason: str) -> typer.Exit:
    words.print(reason, style="red", markup=False)
    return typer.Exit(1)
