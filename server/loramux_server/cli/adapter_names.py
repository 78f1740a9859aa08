"""Adapters and versions as people name them on a command line, and answers as they want them."""

import json
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from loramux_server.cli.api_client import Server, ended

Name = Annotated[str, typer.Argument(help="The adapter's name, which clients send as `model`.")]

SHORTEST = 4
"""So many characters of a digest are enough where only one version begins with them."""


def adapter_path(name: str, more: str = "") -> str:
    """Where the server has the adapter."""
    return f"/admin/adapters/{quote(name)}{more}"


def version_path(name: str, digest: str) -> str:
    """Where the server has the version."""
    return adapter_path(name, f"/versions/{digest}")


def digest_of(server: Server, name: str, text: str) -> str:
    """Return the digest of the one version of `name` that `text` means: NAME@DIGEST, DIGEST, or how it begins."""
    of_name, at, start = text.rpartition("@")
    versions = server.call("GET", adapter_path(name))["versions"]
    known: list[str] = [version["id"].partition("@")[2] for version in versions]
    found = [digest for digest in known if digest.startswith(start.lower())]
    if len(found) == 1 and len(start) >= SHORTEST and (not at or of_name == name):
        return found[0]
    raise ended(
        f"{text!r} means no one version of {name}: say its digest, or the first {SHORTEST} characters of it or more. "
        f"There is {', '.join(known)}."
    )


def shown(answer: Any, show: Callable[[Any], None], *, as_json: bool) -> None:
    """Print what the server answered: as it is for programs, with `show` for people."""
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        show(answer)
