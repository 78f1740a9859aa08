"""`loramux adapter`: add, list, show and remove the adapters of a running server."""

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from loramux_server.commands.http import DEFAULT_URL, ApiKey, AsJson, Url, call

commands = typer.Typer(name="adapter", help="Add, list, show and remove adapters.", no_args_is_help=True)
out = Console(highlight=False)

Name = Annotated[str, typer.Argument(help="The adapter's name, which clients send as `model`.")]


@commands.command()
def add(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Its folder on the server's machine, as PEFT saves it.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Check an adapter's files and serve it under NAME from now on.

    The folder must lie in one of the server's LORAMUX_ALLOWED_ROOTS. Adding to a NAME that exists makes a new version
    of it, to which the name then points; the old version keeps answering as NAME@DIGEST.
    """
    body = {"name": name, "source": {"type": "folder", "path": str(folder.absolute())}}
    added = call("POST", url, "/admin/adapters", api_key, body)
    _print(added, as_json, [added])


@commands.command("list")
def list_(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the registered adapters and their versions."""
    answer = call("GET", url, "/admin/adapters", api_key)
    _print(answer, as_json, [version for adapter in answer["data"] for version in adapter["versions"]])


@commands.command()
def show(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one adapter and its versions."""
    adapter = call("GET", url, f"/admin/adapters/{quote(name)}", api_key)
    _print(adapter, as_json, adapter["versions"])


@commands.command()
def remove(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Forget an adapter: new requests find no such model, those in flight finish."""
    adapter = call("DELETE", url, f"/admin/adapters/{quote(name)}", api_key)
    _print(adapter, as_json, adapter["versions"])


def _print(answer: Any, as_json: bool, versions: list[dict[str, Any]]) -> None:
    if as_json:
        typer.echo(json.dumps(answer))
        return
    table = Table("version", "share", "rank", "parameters", "MB", "in the engine", box=None, header_style="bold")
    for version in versions:
        table.add_row(
            version["id"],
            f"{version['weight']:g}",
            str(version["rank"]),
            f"{version['parameters']:,}",
            f"{version['weights_bytes'] / 1e6:.1f}",
            "yes" if version["resident"] else "no",
        )
    out.print(table)
