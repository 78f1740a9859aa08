"""`loramux key`: API keys of applications, colleagues and customers."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import typer
from rich.markup import escape

from loramux_server.auth import Scope
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import JsonObject, column_table, print_result, stderr, stdout

commands = typer.Typer(name="key", help="Create, list, rotate and revoke API keys.", no_args_is_help=True)

_PATH = "/admin/keys"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})([smhd])")

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as in `loramux key list`.")]


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `30d`, `12h`, `5m` or `10s`.

    Raises:
        typer.BadParameter: the text is none.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"expected a number with s, m, h or d, such as 30d, not {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


@commands.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as the name of an application.")],
    scope: Annotated[
        list[Scope], typer.Option(help="What the key may do; repeat for several. `admin` implies the others.")
    ] = [Scope.INFER],  # noqa: B006 - Typer copies it
    project: Annotated[
        str, typer.Option(help="The project that owns what is made with the key, and whose adapters it sees.")
    ] = "default",
    organisation: Annotated[str | None, typer.Option(help="The organisation of a new project.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of the models that the key may use; repeat for several. Default: the project's."),
    ] = None,
    expires: Annotated[
        float | None, typer.Option(metavar="DURATION", parser=parse_duration, help="How long the key works, as 90d.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key, and print it: it is shown only once.

    Examples:

    - loramux key create website --project shop --model "shop-*" --expires 90d

    - loramux key create ann --project shop --scope infer --scope finetune
    """
    body = {
        "name": name,
        "scopes": [one.value for one in scope],
        "project": project,
        "organisation": organisation,
        "models": model or None,
        "expires_at": None if expires is None else time.time() + expires,
    }
    print_result(ApiClient(url, api_key).call("POST", _PATH, body), _print_issued, as_json=as_json)


@commands.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="Only keys of this project.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Keys that have expired or are revoked, too.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the keys, newest first."""
    query = {} if project is None else {"project": project}
    response = ApiClient(url, api_key).call("GET", _PATH, query=query)
    keys = [key for key in response["data"] if every or key["status"] == "active"]
    print_result({"data": keys}, lambda result: _print_keys(result["data"]), as_json=as_json)


@commands.command()
def rotate(
    key: KeyId,
    overlap: Annotated[
        float, typer.Option(metavar="DURATION", parser=parse_duration, help="How long the old secret still works.")
    ] = "1d",  # type: ignore[assignment] # Typer parses it
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret, and print it; id, limits and usage stay those of the key."""
    response = ApiClient(url, api_key).call("POST", f"{_key_path(key)}/rotate", {"overlap_seconds": overlap})
    print_result(response, _print_issued, as_json=as_json)


@commands.command()
def revoke(key: KeyId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Revoke a key for good, on all servers that share the database within seconds."""
    revoked = ApiClient(url, api_key).call("DELETE", _key_path(key))
    print_result(revoked, lambda revoked: stdout.print(f"revoked {revoked['id']}", markup=False), as_json=as_json)


def _key_path(key: str) -> str:
    return f"{_PATH}/{quote(key, safe='')}"


def _print_issued(issued: JsonObject) -> None:
    """Print the secret alone on standard output, for scripts."""
    stderr.print(f"{issued['id']}, {_grant(issued)}; keep the key, it is not shown again:", markup=False)
    stdout.print(issued["key"], markup=False, soft_wrap=True)


def _print_keys(keys: Sequence[JsonObject]) -> None:
    if not keys:
        stdout.print("no keys; create one with `loramux key create NAME`")
        return
    table = column_table("id", "name", "starts with", "project", "may", "models", "last used", "expires", "status")
    for key in keys:
        table.add_row(
            key["id"],
            escape(key["name"]),
            key["secrets"][-1]["prefix"],
            f"{key['organisation']}/{key['project']}",
            ", ".join(key["scopes"]),
            escape(", ".join(key["models"] or ["the project's"])),
            _time(key["last_used_at"]),
            _time(key["expires_at"]),
            key["status"],
        )
    stdout.print(table)


def _grant(key: JsonObject) -> str:
    return f"project {key['project']}, {', '.join(key['scopes'])}"


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
