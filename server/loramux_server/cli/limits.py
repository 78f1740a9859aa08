"""`loramux limit`: limits and budgets of keys, projects and adapters of a running server."""

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import JsonObject, column_table, fail, print_result, stdout
from loramux_server.limits.limit import Limit, SubjectKind

commands = typer.Typer(
    name="limit", help="Limit what keys, projects and adapters of a running server may use.", no_args_is_help=True
)

_PATH = "/admin/limits"
SubjectName = Annotated[
    str,
    typer.Argument(metavar="KIND:NAME", help="A key, project or adapter, such as key:key_1a2b or project:'*' for all."),
]


@commands.command("list")
def list_limits(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the limits, and what was used."""
    print_result(ApiClient(url, api_key).call("GET", _PATH), _print_limits, as_json=as_json)


@commands.command("set")
def set_limits(
    subject: SubjectName,
    changes: Annotated[
        list[str], typer.Argument(metavar="LIMIT=VALUE...", help="Limits to change; LIMIT= removes one.")
    ],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change limits from now on, on all servers that share the database; those not named stay as they are.

    Limits: requests_per_minute, tokens_per_minute, concurrent_requests, tokens_per_day, tokens_per_month, usd_per_day,
    usd_per_month. What was used before counts.

    Examples:

    - loramux limit set key:key_1a2b3c4d5e6f requests_per_minute=60 usd_per_month=100

    - loramux limit set project:'*' tokens_per_day=1000000 concurrent_requests=8
    """
    client, path = ApiClient(url, api_key), _path(subject)
    kind, _, name = subject.partition(":")
    present = client.call("GET", _PATH)["data"]
    limits: dict[str, Any] = next((one["limits"] for one in present if (one["kind"], one["name"]) == (kind, name)), {})
    for change in changes:
        _apply(limits, change)
    print_result(client.call("PUT", path, limits), _print_one, as_json=as_json)


@commands.command()
def remove(subject: SubjectName, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Remove all limits of a key, project or adapter that were set at run time."""
    response = ApiClient(url, api_key).call("DELETE", _path(subject))
    print_result(response, _print_removed, as_json=as_json)


def _path(subject: str) -> str:
    kind, found, name = subject.partition(":")
    if kind not in set(SubjectKind) or not found or not name:
        fail(f"expected KIND:NAME, where KIND is {', '.join(SubjectKind)}, such as key:key_1a2b, not {subject!r}")
    return f"{_PATH}/{kind}/{quote(name, safe='/*')}"


def _apply(limits: dict[str, Any], change: str) -> None:
    name, found, value = change.partition("=")
    if not found or name not in Limit.model_fields:
        fail(f"expected LIMIT=VALUE, where LIMIT is {', '.join(Limit.model_fields)}, not {change!r}")
    if not value:
        limits.pop(name, None)
        return
    limits[name] = value


def _print_limits(response: JsonObject) -> None:
    if not response["data"]:
        stdout.print("no limits; set some with `loramux limit set key:'*' requests_per_minute=60`")
        return
    table = column_table("of", "limits", "from", "used today", "used this month")
    for one in response["data"]:
        table.add_row(*(escape(text) for text in _cells(one)))
    stdout.print(table)


def _print_one(one: JsonObject) -> None:
    _print_limits({"data": [one]})


def _print_removed(one: JsonObject) -> None:
    stdout.print(escape(f"removed the limits of {one['kind']} {one['name']}"))


def _cells(one: JsonObject) -> list[str]:
    limits = ", ".join(f"{name}={value}" for name, value in one["limits"].items())
    source = f"set by {one['by']}" if one["by"] else "the settings"
    used = one["used"] or {}
    spent = [f"{used[f'tokens_{since}']} tokens, ${used[f'usd_{since}']:.4f}" if used else "" for since in _SINCE]
    return [f"{one['kind']} {one['name']}", limits, source, *spent]


_SINCE = ("today", "this_month")
