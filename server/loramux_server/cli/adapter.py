"""`loramux adapter`: the adapters of a running server and their versions."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from loramux_server.cli import adapter_tables as tables
from loramux_server.cli import aliases
from loramux_server.cli.adapter_names import SHORTEST, Name, adapter_path, digest_of, shown, version_path
from loramux_server.cli.api_client import DEFAULT_URL, ApiKey, AsJson, Server, Url

commands = typer.Typer(
    name="adapter", help="Adapters, their versions, and what their names lead to.", no_args_is_help=True
)

NameOrVersion = Annotated[
    str, typer.Argument(help=f"NAME, or NAME@DIGEST; {SHORTEST} characters of the digest are enough.")
]
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")


@commands.command()
def add(
    name: Name,
    source: Annotated[
        str,
        typer.Argument(help="A folder on the server, hf:ORG/NAME[@REVISION], or a URL such as s3://bucket/folder."),
    ],
    *,
    upload: Annotated[bool, typer.Option("--upload", help="SOURCE is a folder here: send its files.")] = False,
    promote: Annotated[bool, typer.Option(help="Let NAME lead to the new version from now on.")] = True,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Check an adapter's files, try them on the engine, and serve them under NAME.

    Adding to a NAME that exists makes a new version of it; the old ones keep answering as NAME@DIGEST. A folder on the
    server must lie in one of its LORAMUX_ALLOWED_ROOTS, and a URL in one of its LORAMUX_ALLOWED_URLS.

    Examples:

    - loramux adapter add tone ./tone --upload

    - loramux adapter add tone hf:org/tone@v2 --no-promote
    """
    body: dict[str, Any] = {"name": name, "promote": promote}
    if not upload:
        body["source"] = _source(source)
    version = Server(url, api_key).add(body, Path(source) if upload else None)
    shown(version, tables.version, as_json=as_json)


@commands.command("list")
def list_(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the adapters, their versions, and which of them serve."""
    answer = Server(url, api_key).call("GET", "/admin/adapters")
    shown(answer, lambda answer: tables.adapters(answer["data"]), as_json=as_json)


@commands.command()
def show(name: NameOrVersion, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the versions of NAME, or all about NAME@DIGEST: where it is from, and what it answered when it was tried."""
    server = Server(url, api_key)
    adapter, at, digest = name.partition("@")
    if at:
        version = server.call("GET", version_path(adapter, digest_of(server, adapter, digest)))
        shown(version, tables.version, as_json=as_json)
    else:
        shown(server.call("GET", adapter_path(adapter)), tables.adapter, as_json=as_json)


@commands.command()
def remove(
    name: NameOrVersion,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Forget NAME with all its versions, or NAME@DIGEST alone.

    New requests find no such model; those in flight finish. Files that no other adapter has are removed from the
    server's store.
    """
    server = Server(url, api_key)
    adapter, at, digest = name.partition("@")
    if at:
        left = server.call("DELETE", version_path(adapter, digest_of(server, adapter, digest)))
        shown(left, tables.adapter, as_json=as_json)
        return
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Remove {name} and all its versions?", abort=True, err=True)
    shown(server.call("DELETE", adapter_path(adapter)), tables.removed, as_json=as_json)


@commands.command()
def history(
    name: Annotated[str | None, typer.Argument(help="Of this adapter only; it may be removed already.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 30,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, the newest change first."""
    query = f"?limit={limit}" + (f"&adapter={quote(name, safe='')}" if name else "")
    answer = Server(url, api_key).call("GET", f"/admin/audit{query}")
    shown(answer, lambda answer: tables.history(answer["data"]), as_json=as_json)


@commands.command()
def residency(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show which versions are in the engine, how many requests each serves now, and which fail to load."""
    shown(Server(url, api_key).call("GET", "/admin/residency"), tables.residency, as_json=as_json)


for command in aliases.COMMANDS:
    commands.command()(command)


def _source(source: str) -> dict[str, Any]:
    if source.startswith("hf:"):
        repo, _, revision = source.removeprefix("hf:").partition("@")
        return {"type": "hub", "repo": repo, "revision": revision or None}
    if _SCHEME.match(source):
        return {"type": "url", "url": source}
    return {"type": "folder", "path": str(Path(source).absolute())}
