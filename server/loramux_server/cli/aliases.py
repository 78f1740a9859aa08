"""The commands of `loramux adapter` that point a name at versions, keep them loaded, or change the owner."""

from collections.abc import Sequence
from math import isclose, isfinite
from typing import Annotated, Literal

import typer

from loramux_server.cli import adapter_tables as tables
from loramux_server.cli.adapter_names import MIN_DIGEST_LENGTH, Name, adapter_path, resolve_digest
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import fail, print_result
from loramux_server.cli.experiment_options import (
    Judge,
    Margin,
    Rubric,
    ScorerFile,
    Share,
    limits_body,
    quality_body,
)
from loramux_server.cli.experiment_tables import experiment as print_experiment


def promote(
    name: Annotated[str, typer.Argument(help="The adapter's name, or NAME@DIGEST.")],
    digest: Annotated[
        str | None,
        typer.Argument(help=f"The version's digest, or at least its first {MIN_DIGEST_LENGTH} characters."),
    ] = None,
    *,
    when: Annotated[
        Literal["better", "not-worse"] | None,
        typer.Option(help="Promote by itself, once an experiment has shown this on live traffic."),
    ] = None,
    share: Share = 10.0,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="With --when, roll back beyond it: errors=0.02, latency=1.5 (ratio) or quality=0.1 (lower score).",
        ),
    ] = None,
    scorer: ScorerFile = None,
    judge: Judge = None,
    rubric: Rubric = None,
    margin: Margin = 0.05,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Point NAME at one version, from the next request on.

    Requests in flight finish on the version that they started with. With --when, a share of the users gets the version
    first; `loramux experiment show NAME` shows how it does, and `loramux experiment stop NAME` ends it.

    Examples:

    - loramux adapter promote tone 3f9c

    - loramux adapter promote tone@3f9c --when not-worse --share 10 --limit errors=0.02 --scorer style.yaml
    """
    client = ApiClient(url, api_key)
    name, version = _version(name, digest)
    if when is None:
        if limit:
            fail("--limit needs --when")
        _point_at(client, name, [(version, 1.0)], as_json=as_json)
        return
    limits, quality = limits_body(limit or ()), quality_body(scorer, judge, rubric)
    body = {
        "adapter": name,
        "candidate": f"{name}@{resolve_digest(client, name, version)}",
        "share": share / 100,
        "quality": quality,
        "margin": margin,
        "promotion": {"when": when, "limits": limits},
    }
    print_result(client.call("POST", "/admin/experiments", body), print_experiment, as_json=as_json)


def _version(name: str, digest: str | None) -> tuple[str, str]:
    """Return the adapter's name and the digest of `promote NAME DIGEST` or `promote NAME@DIGEST`."""
    adapter, at, own = name.partition("@")
    if (digest is None) != bool(at):
        fail("expected NAME DIGEST or NAME@DIGEST")
    return adapter, own if digest is None else digest


def split(
    name: Name,
    shares: Annotated[
        list[str], typer.Argument(metavar="DIGEST=SHARE...", help="Versions and their shares in percent: 100 in total.")
    ],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Point NAME at several versions, each with its share of the users.

    A user (the request's `user` field, or else its API key) stays on one version, also while a canary's share grows.

    Example: loramux adapter split tone 3f9c=95 a01d=5
    """
    parsed = [_share(text) for text in shares]
    _check_total(parsed)
    _point_at(ApiClient(url, api_key), name, parsed, as_json=as_json)


def rollback(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Undo the last promote or split: point NAME at its previous versions."""
    adapter = ApiClient(url, api_key).call("POST", adapter_path(name, "/rollback"))
    print_result(adapter, tables.adapter, as_json=as_json)


def pin(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Keep the versions that NAME points at loaded, so that its requests never wait for a load."""
    adapter = ApiClient(url, api_key).call("PUT", adapter_path(name, "/pin"), {"pinned": True})
    print_result(adapter, tables.adapter, as_json=as_json)


def unpin(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Undo pin: allow the engine to evict NAME again."""
    adapter = ApiClient(url, api_key).call("PUT", adapter_path(name, "/pin"), {"pinned": False})
    print_result(adapter, tables.adapter, as_json=as_json)


def give(
    name: Name,
    project: Annotated[str, typer.Argument(help="Project whose keys may use it.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give NAME to a project: its keys may use it from the next request on, and those of others no longer."""
    adapter = ApiClient(url, api_key).call("PUT", adapter_path(name, "/project"), {"project": project})
    print_result(adapter, tables.adapter, as_json=as_json)


def prefetch(
    name: Annotated[str, typer.Argument(help="NAME, or NAME@DIGEST for one version.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Load NAME or NAME@DIGEST into the engine now, before its first request."""
    client = ApiClient(url, api_key)
    adapter, at, digest = name.partition("@")
    target = f"{adapter}@{resolve_digest(client, adapter, digest)}" if at else name
    print_result(client.call("POST", adapter_path(target, "/prefetch")), tables.adapter, as_json=as_json)


ROUNDING = 0.15
"""Three shares of 33.3 are 100 percent too."""

COMMANDS = (promote, split, rollback, pin, unpin, give, prefetch)


def _share(text: str) -> tuple[str, float]:
    digest, _, share = text.partition("=")
    try:
        weight = float(share)
    except ValueError:
        weight = 0.0
    if not (isfinite(weight) and weight > 0):
        raise typer.BadParameter(
            f"{text!r} is not a valid share; expected DIGEST=SHARE with SHARE above 0, such as 3f9c=95"
        )
    return digest, weight


def _check_total(shares: Sequence[tuple[str, float]]) -> None:
    """Refuse shares that do not add up: the server would scale them, 90 alone to all requests."""
    total = sum(share for _, share in shares)
    if not isclose(total, 100, abs_tol=ROUNDING):
        raise typer.BadParameter(
            f"the shares add up to {total:g}; expected 100 (percent), such as 3f9c=95 a01d=5. "
            "List each version that is to get requests, also the present one."
        )


def _point_at(client: ApiClient, name: str, shares: Sequence[tuple[str, float]], *, as_json: bool) -> None:
    targets = [{"version": resolve_digest(client, name, digest), "weight": weight} for digest, weight in shares]
    print_result(
        client.call("PUT", adapter_path(name, "/alias"), {"targets": targets}), tables.adapter, as_json=as_json
    )
