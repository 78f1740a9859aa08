"""`loramux adapter`: the adapters of a running server, their versions, and what their names lead to."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.status import Status

from loramux_server.commands import http, tables
from loramux_server.commands.http import DEFAULT_URL, ApiKey, AsJson, Url, call, words

commands = typer.Typer(
    name="adapter", help="Adapters, their versions, and what their names lead to.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The adapter's name, which clients send as `model`.")]
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")


@commands.command()
def add(
    name: Name,
    source: Annotated[str, typer.Argument(help="A folder, hf:ORG/NAME[@REVISION], or a URL such as s3://bucket/path.")],
    *,
    upload: Annotated[bool, typer.Option("--upload", help="The folder is here, and not on the server.")] = False,
    promote: Annotated[bool, typer.Option(help="Let NAME lead to it from now on.")] = True,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Check an adapter's files, try them on the engine, and serve them under NAME.

    Adding to a NAME that exists makes a new version of it; the old ones keep answering as NAME@DIGEST. A folder on the
    server must lie in one of its LORAMUX_ALLOWED_ROOTS.

    For example: loramux adapter add tone ./tone --upload · loramux adapter add tone hf:org/tone@v2 --no-promote
    """
    body: dict[str, Any] = {"name": name, "promote": promote}
    if not upload:
        body["source"] = _source(source)
    with Status("sending", console=words) as status:
        version = http.add(url, api_key, body, Path(source) if upload else None, tell=status.update)
    tables.versions(version, [version], as_json=as_json)


@commands.command("list")
def list_(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the registered adapters and their versions."""
    answer = call("GET", url, "/admin/adapters", api_key)
    tables.versions(answer, [version for one in answer["data"] for version in one["versions"]], as_json=as_json)


@commands.command()
def show(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one adapter, its versions, and what they answered when they were tried."""
    adapter = call("GET", url, _path(name), api_key)
    digests = [version["id"].partition("@")[2] for version in adapter["versions"]]
    adapter["versions"] = [call("GET", url, _path(name, f"/versions/{digest}"), api_key) for digest in digests]
    tables.versions(adapter, adapter["versions"], as_json=as_json)
    if not as_json:
        tables.proofs(adapter["versions"])


@commands.command()
def promote(
    name: Name,
    digest: Annotated[str, typer.Argument(help="The version's digest, or its first 4 characters or more.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let NAME lead to one version from the next request on."""
    _set_alias(name, {digest: 1.0}, url, api_key, as_json=as_json)


@commands.command()
def split(
    name: Name,
    shares: Annotated[list[str], typer.Argument(metavar="DIGEST=SHARE...", help="For a canary: 3f9c=95 a01d=5")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let NAME lead to several versions, each with its share of the users; a user stays with one of them."""
    targets = {}
    for share in shares:
        digest, _, weight = share.partition("=")
        try:
            targets[digest] = float(weight)
        except ValueError:
            raise typer.BadParameter(f"{share!r} is not DIGEST=SHARE", param_hint="SHARES") from None
    _set_alias(name, targets, url, api_key, as_json=as_json)


@commands.command()
def rollback(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let NAME lead to what it led to before."""
    adapter = call("POST", url, _path(name, "/rollback"), api_key)
    tables.versions(adapter, adapter["versions"], as_json=as_json)


@commands.command()
def pin(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Keep what NAME leads to in the engine, so that it is never cold."""
    adapter = call("PUT", url, _path(name, "/pin"), api_key, {"pinned": True})
    tables.versions(adapter, adapter["versions"], as_json=as_json)


@commands.command()
def unpin(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let NAME leave the engine again when others need its place."""
    adapter = call("PUT", url, _path(name, "/pin"), api_key, {"pinned": False})
    tables.versions(adapter, adapter["versions"], as_json=as_json)


@commands.command()
def prefetch(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Bring NAME or NAME@DIGEST into the engine now."""
    adapter = call("POST", url, _path(name, "/prefetch"), api_key)
    tables.versions(adapter, adapter["versions"], as_json=as_json)


@commands.command()
def remove(
    name: Annotated[str, typer.Argument(help="NAME for the whole adapter, NAME@DIGEST for one version.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Forget an adapter with all its versions, or one version: new requests find no such model."""
    adapter, _, digest = name.partition("@")
    if not digest and not yes and sys.stdin.isatty():
        typer.confirm(f"Remove {name} and all its versions?", abort=True)
    path = _path(adapter, f"/versions/{_full_digest(adapter, digest, url, api_key)}") if digest else _path(name)
    left = call("DELETE", url, path, api_key)
    tables.versions(left, left["versions"] if digest else [], as_json=as_json)


@commands.command()
def history(
    name: Annotated[str | None, typer.Argument(help="Of this adapter only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 30,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, the newest change first."""
    query = f"?limit={limit}" + (f"&adapter={quote(name)}" if name else "")
    tables.history(call("GET", url, f"/admin/audit{query}", api_key), as_json=as_json)


@commands.command()
def residency(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show which versions are in the engine, what holds them there, and which fail to load."""
    tables.residency(call("GET", url, "/admin/residency", api_key), as_json=as_json)


def _source(source: str) -> dict[str, Any]:
    if source.startswith("hf:"):
        repo, _, revision = source.removeprefix("hf:").partition("@")
        return {"type": "hub", "repo": repo, "revision": revision or None}
    if _SCHEME.match(source):
        return {"type": "url", "url": source}
    return {"type": "folder", "path": str(Path(source).absolute())}


def _set_alias(name: str, shares: dict[str, float], url: str, api_key: str | None, *, as_json: bool) -> None:
    targets = [
        {"version": _full_digest(name, digest, url, api_key), "weight": weight} for digest, weight in shares.items()
    ]
    adapter = call("PUT", url, _path(name, "/alias"), api_key, {"targets": targets})
    tables.versions(adapter, adapter["versions"], as_json=as_json)


def _full_digest(name: str, start: str, url: str, api_key: str | None) -> str:
    """The digest that begins with `start`, if there is one such version; else `start`, for the server to refuse."""
    if len(start) < 4:
        return start
    known = [version["id"].partition("@")[2] for version in call("GET", url, _path(name), api_key)["versions"]]
    meant = [digest for digest in known if digest.startswith(start)]
    return meant[0] if len(meant) == 1 else start


def _path(name: str, more: str = "") -> str:
    return f"/admin/adapters/{quote(name)}{more}"
