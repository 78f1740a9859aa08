"""`loramux experiment`: compare an adapter with a baseline on live traffic."""

import time
from typing import Annotated
from urllib.parse import quote

import typer

from loramux_server.cli import experiment_tables as tables
from loramux_server.cli.adapter_names import Name
from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import fail, print_result
from loramux_server.cli.experiment_options import (
    Judge,
    Margin,
    Rubric,
    ScorerFile,
    Share,
    baseline_body,
    quality_body,
)

commands = typer.Typer(
    name="experiment",
    help="Compare an adapter with a baseline on live traffic: at random, with a verdict at any time.",
    no_args_is_help=True,
)
Id = Annotated[str, typer.Argument(metavar="ID", help="The experiment's id, or an adapter's name for its newest one.")]


@commands.command()
def start(
    name: Name,
    baseline: Annotated[
        str,
        typer.Option(help="Prompt file for the base (.txt or .json, as for `loramux compare`); `base`; NAME@DIGEST."),
    ],
    *,
    share: Share = 5.0,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Ask the baseline in the background; no user gets its answers.")
    ] = False,
    scorer: ScorerFile = None,
    judge: Judge = None,
    rubric: Rubric = None,
    margin: Margin = 0.05,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Answer a random share of NAME's users by a baseline, and compare the answers.

    Quality is what users say with `POST /v1/feedback`, unless --scorer or --judge is given. A user (the request's
    `user` field) stays on one variant.

    Example: loramux experiment start tone --baseline prompted.txt --share 5
    """
    client = ApiClient(url, api_key)
    body = {
        "adapter": name,
        "baseline": baseline_body(client, name, baseline),
        "share": share / 100,
        "shadow": shadow,
        "quality": quality_body(scorer, judge, rubric),
        "margin": margin,
    }
    print_result(client.call("POST", "/admin/experiments", body), tables.experiment, as_json=as_json)


@commands.command("list")
def list_(
    adapter: Annotated[str | None, typer.Argument(help="Only experiments of this adapter.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Limit to the newest N.")] = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List experiments and their verdicts, newest first."""
    found = ApiClient(url, api_key).call("GET", "/admin/experiments", query=_query(adapter, limit))
    print_result(found, lambda found: tables.experiments(found["data"]), as_json=as_json)


@commands.command()
def show(experiment: Id, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show what an experiment shows at this moment; look as often as you like, and stop when you like."""
    client = ApiClient(url, api_key)
    found = client.call("GET", _path(client, experiment))
    print_result(found, tables.experiment, as_json=as_json)


@commands.command()
def stop(experiment: Id, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Stop an experiment: all requests are answered as before it. Its report stays."""
    client = ApiClient(url, api_key)
    print_result(client.call("DELETE", _path(client, experiment)), tables.experiment, as_json=as_json)


@commands.command()
def feedback(
    days: Annotated[float, typer.Option(min=0.01, max=10_000, help="Only feedback of the last N days.")] = 1.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what users say with `POST /v1/feedback`, by route.

    It is the mean of those who gave feedback: routes get different requests, so it compares nothing.
    """
    query: dict[str, str | int] = {"since": f"{time.time() - days * 86_400:.0f}"}
    found = ApiClient(url, api_key).call("GET", "/admin/feedback", query=query)
    print_result(found, lambda found: tables.feedback(found["data"]), as_json=as_json)


def _query(adapter: str | None, limit: int) -> dict[str, str | int]:
    return {"limit": limit} | ({} if adapter is None else {"adapter": adapter})


def _path(client: ApiClient, id_or_adapter: str) -> str:
    """Return the API path of an experiment."""
    if not id_or_adapter.startswith("exp_"):
        newest = client.call("GET", "/admin/experiments", query=_query(id_or_adapter, 1))["data"]
        if not newest:
            fail(f"{id_or_adapter} is neither the id of an experiment nor an adapter with one")
        id_or_adapter = newest[0]["id"]
    return f"/admin/experiments/{quote(id_or_adapter, safe='')}"
