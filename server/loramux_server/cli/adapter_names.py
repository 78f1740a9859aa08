"""Adapter and version names on a command line, and their paths on the server."""

from typing import Annotated
from urllib.parse import quote

import typer

from loramux_server.cli.api_client import ApiClient
from loramux_server.cli.console import fail

Name = Annotated[str, typer.Argument(help="The adapter's name, which clients send as `model`.")]

MIN_DIGEST_LENGTH = 4
"""Characters of a digest that identify a version, if only one version starts with them."""

NameOrVersion = Annotated[
    str,
    typer.Argument(help=f"NAME, or NAME@DIGEST; the first {MIN_DIGEST_LENGTH} characters of the digest are enough."),
]


def adapter_path(name: str, suffix: str = "") -> str:
    """Return the API path of an adapter."""
    return f"/admin/adapters/{quote(name)}{suffix}"


def version_path(name: str, digest: str) -> str:
    """Return the API path of a version."""
    return adapter_path(name, f"/versions/{digest}")


def resolve_digest(client: ApiClient, name: str, text: str) -> str:
    """Return the full digest of the version of `name` that `text` names: NAME@DIGEST, DIGEST, or a prefix of it.

    Raises:
        typer.Exit: `text` matches no version, or several.

    """
    given_name, at, prefix = text.rpartition("@")
    versions = client.call("GET", adapter_path(name))["versions"]
    known: list[str] = [version["id"].partition("@")[2] for version in versions]
    matches = [digest for digest in known if digest.startswith(prefix.lower())]
    if len(matches) > 1 and len(prefix) >= MIN_DIGEST_LENGTH:
        fail(f"{text!r} is ambiguous: it matches {', '.join(matches)}; expected more characters of the digest.")
    if len(matches) != 1 or len(prefix) < MIN_DIGEST_LENGTH or (at and given_name != name):
        fail(
            f"unknown version {text!r} of {name}; expected a digest, or at least its first {MIN_DIGEST_LENGTH} "
            f"characters. Versions: {', '.join(known)}."
        )
    return matches[0]
