"""`loramux alias`: other names of models, such as those that an app used elsewhere."""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import typer
from rich.markup import escape

from loramux_server.cli.adapter_names import resolve_digest
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import JsonObject, column_table, print_result, stdout

commands = typer.Typer(
    name="alias", help="Let other names stand for models, such as those of your old provider.", no_args_is_help=True
)

Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="The other name, which clients may send as `model`.")]


@commands.command("set")
def set_alias(
    alias: Alias,
    model: Annotated[
        str, typer.Argument(help="An adapter (whatever its name points at), NAME@DIGEST, or the base by its name.")
    ],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let ALIAS stand for MODEL from the next request on, on all servers that share the database.

    An alias of an adapter follows it: promote, split, rollback and experiments work through it, and by it.

    Examples:

    - loramux alias set ft:gpt-4o-mini-2024-07-18:acme:tone:abc123 tone

    - loramux alias set gpt-4o-mini SmolLM2-135M-Instruct
    """
    client = ApiClient(url, api_key)
    name, at, digest = model.partition("@")
    target = f"{name}@{resolve_digest(client, name, digest)}" if at else model
    print_result(client.call("PUT", alias_path(alias), {"target": target}), _print_alias, as_json=as_json)


@commands.command("list")
def list_(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List all aliases, and the models that they stand for."""
    response = ApiClient(url, api_key).call("GET", "/admin/aliases")
    print_result(response, lambda response: _print_aliases(response["data"]), as_json=as_json)


@commands.command()
def remove(alias: Alias, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Remove ALIAS; the model that it stands for stays."""
    removed = ApiClient(url, api_key).call("DELETE", alias_path(alias))
    print_result(removed, lambda removed: stdout.print(f"removed {removed['name']}", markup=False), as_json=as_json)


def alias_path(alias: str) -> str:
    """Return the API path of an alias."""
    return f"/admin/aliases/{quote(alias)}"


def _print_alias(alias: JsonObject) -> None:
    _print_aliases([alias])


def _print_aliases(aliases: Sequence[JsonObject]) -> None:
    if not aliases:
        stdout.print("no aliases; set one with `loramux alias set ALIAS MODEL`")
        return
    table = column_table("alias", "stands for", "which is", "defined by")
    for alias in aliases:
        kind = {"base": "the base", "adapter": "an adapter", "version": "a version", None: "[red]not served[/]"}
        table.add_row(escape(alias["name"]), escape(alias["target"]), kind[alias["serves"]], alias["source"])
    stdout.print(table)
