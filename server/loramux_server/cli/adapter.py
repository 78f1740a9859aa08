"""`loramux adapter`: manage the adapters of a running server and their versions."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from loramux_server.cli import adapter_tables as tables
from loramux_server.cli import aliases, owned_adapters
from loramux_server.cli.adapter_names import Name, NameOrVersion, adapter_path, resolve_digest, version_path
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import print_result
from loramux_server.cli.convert import convert

commands = typer.Typer(
    name="adapter", help="Manage adapters, their versions and the names that point at them.", no_args_is_help=True
)

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")


@commands.command()
def add(
    name: Name,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder on the server, hf:ORG/NAME[/FOLDER][@REVISION], or URL such as s3://bucket/folder."
        ),
    ],
    *,
    upload: Annotated[
        bool, typer.Option("--upload", help="SOURCE is a folder on this machine: upload its files.")
    ] = False,
    promote: Annotated[bool, typer.Option(help="Point NAME at the new version.")] = True,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Validate an adapter's files, test them on the engine, and serve them as NAME.

    Adding to an existing NAME creates a new version; older versions stay available as NAME@DIGEST. A folder on the
    server must be inside one of its LORAMUX_ALLOWED_ROOTS, and a URL inside one of its LORAMUX_ALLOWED_URLS.

    Examples:

    - loramux adapter add tone my-adapters/tone

    - loramux adapter add tone ./tone --upload

    - loramux adapter add tone hf:org/tone@v2 --no-promote
    """
    body: dict[str, Any] = {"name": name, "promote": promote}
    if not upload:
        body["source"] = _source_body(source)
    version = ApiClient(url, api_key).add_adapter(body, Path(source) if upload else None)
    print_result(version, tables.version, as_json=as_json)


@commands.command("list")
def list_(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List all adapters and the state of their versions."""
    response = ApiClient(url, api_key).call("GET", "/admin/adapters")
    print_result(response, lambda response: tables.adapters(response["data"]), as_json=as_json)


@commands.command()
def show(name: NameOrVersion, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the versions of NAME, or the details of NAME@DIGEST: source, size and the result of its effect check."""
    client = ApiClient(url, api_key)
    adapter, at, digest = name.partition("@")
    if at:
        version = client.call("GET", version_path(adapter, resolve_digest(client, adapter, digest)))
        print_result(version, tables.version, as_json=as_json)
    else:
        print_result(client.call("GET", adapter_path(adapter)), tables.adapter, as_json=as_json)


@commands.command()
def remove(
    name: NameOrVersion,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Remove NAME with all its versions, or NAME@DIGEST alone.

    New requests get a 404; requests in flight finish. Files that no other adapter uses are deleted from the server's
    store.
    """
    client = ApiClient(url, api_key)
    adapter, at, digest = name.partition("@")
    if at:
        adapter_left = client.call("DELETE", version_path(adapter, resolve_digest(client, adapter, digest)))
        print_result(adapter_left, tables.adapter, as_json=as_json)
        return
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Remove {name} and all its versions?", abort=True, err=True)
    print_result(client.call("DELETE", adapter_path(adapter)), tables.removed, as_json=as_json)


@commands.command()
def history(
    name: Annotated[
        str | None, typer.Argument(help="Only changes of this adapter, which may have been removed.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Limit to the newest N.")] = 30,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, newest first."""
    query = f"?limit={limit}" + (f"&adapter={quote(name, safe='')}" if name else "")
    response = ApiClient(url, api_key).call("GET", f"/admin/audit{query}")
    print_result(response, lambda response: tables.history(response["data"]), as_json=as_json)


@commands.command()
def residency(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show which versions are loaded in the engine, their requests in flight, and which fail to load."""
    print_result(ApiClient(url, api_key).call("GET", "/admin/residency"), tables.residency, as_json=as_json)


for command in (convert, *aliases.COMMANDS, *owned_adapters.COMMANDS):
    commands.command()(command)


def _source_body(source: str) -> dict[str, Any]:
    if source.startswith("hf:"):
        repo, _, revision = source.removeprefix("hf:").partition("@")
        return {"type": "hub", "repo": repo, "revision": revision or None}
    if _SCHEME.match(source):
        return {"type": "url", "url": source}
    return {"type": "folder", "path": str(Path(source).absolute())}
