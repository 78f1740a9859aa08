"""`loramux prices`: the prices of a running server, which may be changed at run time."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape

from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, AsJson, Url
from loramux_server.cli.console import JsonObject, column_table, fact_table, fail, print_result, stdout

commands = typer.Typer(name="prices", help="Show and change the prices of a running server.", no_args_is_help=True)

_ADAPTER_FIELDS = ("multiplier", "training", "tokens.input", "tokens.cached", "tokens.output")
_PATH = "/admin/prices"


@commands.command()
def show(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the prices in force, and the weights by which requests share the engine's cost."""
    print_result(ApiClient(url, api_key).call("GET", _PATH), _print_prices, as_json=as_json)


@commands.command("set")
def set_prices(
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=PRICE]...", help="Prices to change, in US dollars; NAME= makes one unset."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="YAML file with a whole new price list."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change prices from now on, on all servers that share the database, until they are set again or reset.

    Names are those of `prices` in loramux.yaml. Earlier requests keep the prices that they were charged by.

    Examples:

    - loramux prices set gpu_hour=2.5 base.input=0.15 base.output=0.6

    - loramux prices set adapters.tone.multiplier=2 storage_gb_month=
    """
    if not changes and file is None:
        fail("nothing to set: name prices, such as gpu_hour=2.5, or a --file")
    client = ApiClient(url, api_key)
    present = client.call("GET", _PATH)
    prices = _read(file) if file else copy.deepcopy(present["prices"])
    for change in changes or ():
        _apply(prices, change)
    body = {"prices": prices, "replaces": present["version"]}
    print_result(client.call("PUT", _PATH, body), _print_prices, as_json=as_json)


@commands.command()
def reset(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Return to the prices of the server's settings."""
    print_result(ApiClient(url, api_key).call("DELETE", _PATH), _print_prices, as_json=as_json)


@commands.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Limit to N changes, newest first.")] = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show which prices were in force since when."""
    response = ApiClient(url, api_key).call("GET", f"{_PATH}/history", query={"limit": limit})
    print_result(response, _print_history, as_json=as_json)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"can't read {file}: {error}")
    if not isinstance(values, dict):
        fail(f"{file} must have names and prices, as `prices` in loramux.yaml")
    return values.get("prices", values) if set(values) == {"prices"} else values


def _apply(prices: dict[str, Any], change: str) -> None:
    """Set or unset one price."""
    name, found, value = change.partition("=")
    *parents, last = _parts(name)
    if not found or not name:
        fail(f"expected NAME=PRICE, such as gpu_hour=2.5, not {change!r}")
    for parent in parents:
        prices = prices.setdefault(parent, {})
        if not isinstance(prices, dict):
            fail(f"{name!r} is not the name of a price")
    if value:
        prices[last] = value
    else:
        prices.pop(last, None)


def _parts(name: str) -> list[str]:
    """Split a name at its dots, except those in the name of an adapter."""
    if name.startswith("adapters."):
        for leaf in _ADAPTER_FIELDS:
            if name.endswith(f".{leaf}"):
                return ["adapters", name.removeprefix("adapters.").removesuffix(f".{leaf}"), *leaf.split(".")]
    return name.split(".")


def _print_prices(response: JsonObject) -> None:
    weights = response["weights"]
    origin = {"prices": "set in the prices", "default": "the default, not measured yet"}.get(weights["origin"])
    measured = f"measured at {weights['measured_at']}, [{weights['lowest']}, {weights['highest']}]"
    ratio = f"{weights['decode'] / weights['prefill']:g} input tokens"
    stdout.print(
        fact_table(
            {
                "version": response["version"],
                "in force since": f"{response['since'] or 'the start'}, {_origin(response)}",
                "an output token weighs": f"{ratio} ({origin or measured})",
            }
        )
    )
    if not response["prices"]:
        stdout.print("no prices are set: costs are unknown; set some with `loramux prices set gpu_hour=2.5`")
        return
    table = column_table("price", "US dollars")
    for name, value in _flatten(response["prices"]):
        table.add_row(escape(name), escape(str(value)))
    stdout.print(table)


def _print_history(response: JsonObject) -> None:
    table = column_table("since", "version", "from", "prices")
    for change in response["changes"]:
        prices = ", ".join(f"{name}={value}" for name, value in _flatten(change["prices"])) or "none"
        table.add_row(change["since"], change["version"], escape(_origin(change)), escape(prices))
    stdout.print(table)


def _origin(change: JsonObject) -> str:
    by = f" by {change['by']}" if change["by"] else ""
    return {"settings": "from the settings", "set": f"set{by}", "reset": f"reset to the settings{by}"}[change["origin"]]


def _flatten(prices: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in prices.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value
