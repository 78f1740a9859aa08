"""The part of `loramux adapter` that changes what a name leads to, and what of it stays in the engine."""

from collections.abc import Sequence
from math import isfinite
from typing import Annotated

import typer

from loramux_server.cli import adapter_tables as tables
from loramux_server.cli.adapter_names import SHORTEST, Name, adapter_path, digest_of, shown
from loramux_server.cli.api_client import DEFAULT_URL, ApiKey, AsJson, Server, Url


def promote(
    name: Name,
    digest: Annotated[str, typer.Argument(help=f"The version's digest, or its first {SHORTEST} characters or more.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let NAME lead to one version from the next request on.

    Requests in flight finish on the version that they began with.

    Example: loramux adapter promote tone 3f9c
    """
    _lead(Server(url, api_key), name, [(digest, 1.0)], as_json=as_json)


def split(
    name: Name,
    shares: Annotated[list[str], typer.Argument(metavar="DIGEST=SHARE...", help="Versions and their shares.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let NAME lead to several versions, each with its share of the users.

    A user (the request's `user`, or else its key) stays with one version, also while a canary's share grows.

    Example: loramux adapter split tone 3f9c=95 a01d=5
    """
    _lead(Server(url, api_key), name, [_share(text) for text in shares], as_json=as_json)


def rollback(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let NAME lead to what it led to before the last promotion or split."""
    adapter = Server(url, api_key).call("POST", adapter_path(name, "/rollback"))
    shown(adapter, tables.adapter, as_json=as_json)


def pin(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Keep what NAME leads to in the engine, so that its requests never wait for a load."""
    adapter = Server(url, api_key).call("PUT", adapter_path(name, "/pin"), {"pinned": True})
    shown(adapter, tables.adapter, as_json=as_json)


def unpin(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let NAME leave the engine again when others need its place."""
    adapter = Server(url, api_key).call("PUT", adapter_path(name, "/pin"), {"pinned": False})
    shown(adapter, tables.adapter, as_json=as_json)


def prefetch(
    name: Annotated[str, typer.Argument(help="NAME, or NAME@DIGEST for one version.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Bring NAME or NAME@DIGEST into the engine now, before its first request."""
    server = Server(url, api_key)
    adapter, at, digest = name.partition("@")
    wanted = f"{adapter}@{digest_of(server, adapter, digest)}" if at else name
    shown(server.call("POST", adapter_path(wanted, "/prefetch")), tables.adapter, as_json=as_json)


COMMANDS = (promote, split, rollback, pin, unpin, prefetch)


def _share(text: str) -> tuple[str, float]:
    digest, _, share = text.partition("=")
    try:
        weight = float(share)
    except ValueError:
        weight = 0.0
    if not (isfinite(weight) and weight > 0):
        raise typer.BadParameter(f"{text!r} is not DIGEST=SHARE with a share above 0, such as 3f9c=95")
    return digest, weight


def _lead(server: Server, name: str, shares: Sequence[tuple[str, float]], *, as_json: bool) -> None:
    targets = [{"version": digest_of(server, name, digest), "weight": weight} for digest, weight in shares]
    shown(server.call("PUT", adapter_path(name, "/alias"), {"targets": targets}), tables.adapter, as_json=as_json)
