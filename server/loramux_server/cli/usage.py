"""`loramux usage`: requests, latency and cost of each route, relative to the base."""

from collections.abc import Callable, Mapping
from typing import Annotated

import typer
from rich.markup import escape

from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, Url
from loramux_server.cli.console import JsonObject, column_table, print_result, stdout
from loramux_server.metering.ledger.labels import GroupBy


def usage(
    group_by: Annotated[GroupBy, typer.Option(help="What each row of the report stands for.")] = GroupBy.ADAPTER,
    since: Annotated[
        str | None, typer.Option(help="Start: ISO 8601 (UTC) or Unix seconds; by default one day before UNTIL.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End, excluded: as SINCE; by default now.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Only this adapter.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this API key, by its id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Limit to N groups, most expensive first.")] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with all figures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's response as JSON.")] = False,
) -> None:
    """Show requests, latency, tokens and cost of each route, and how they compare with the base.

    Examples:

    - loramux usage

    - loramux usage --group-by day --since 2026-01-01 --csv > january.csv
    """
    options = {
        "group_by": group_by.value,
        "since": since,
        "until": until,
        "adapter": adapter,
        "key": key,
        "limit": limit,
    }
    query = {name: value for name, value in options.items() if value is not None}
    client = ApiClient(url, api_key)
    if as_csv:
        print(client.text("/admin/usage", {**query, "format": "csv"}), end="")  # noqa: T201 - it is the result
    else:
        print_result(client.call("GET", "/admin/usage", query=query), _print_report, as_json=as_json)


def _print_report(report: JsonObject) -> None:
    stdout.print(f"{report['since']} to {report['until']}, by {report['group_by']}")
    if not report["groups"]:
        stdout.print("no request finished in this time range")
        return
    table = column_table(report["group_by"], *_COLUMNS)
    for group in report["groups"]:
        table.add_row(escape(_label(group["label"])), *(column(group) for column in _COLUMNS.values()))
    stdout.print(table)
    if report["count"] > len(report["groups"]):
        stdout.print(f"and {report['count'] - len(report['groups'])} more: --limit {report['count']} shows all")
    engine = report["engine"]
    stdout.print(
        f"engine: busy {engine['busy_seconds'] / (engine['seconds'] or 1):.0%} of the time, idle time cost "
        f"{_usd(engine['idle_usd'])}"
    )


def _label(label: Mapping[str, str]) -> str:
    """Return the most specific part of a label: an adapter's name instead of `adapter`."""
    if label.get("version"):
        return f"{label['adapter']}@{label['version']}"
    return next((value for value in reversed(list(label.values())) if value), "-")


def _milliseconds(measure: str, quantile: str) -> Callable[[JsonObject], str]:
    def column(group: JsonObject) -> str:
        value = group["latency"][measure][quantile]
        return "" if value is None else f"{value * 1000:,.0f}"

    return column


def _cost(mode: str) -> Callable[[JsonObject], str]:
    return lambda group: _usd(group["cost"][mode]["usd_per_request"])


def _relative_to_base(figure: str) -> Callable[[JsonObject], str]:
    def column(group: JsonObject) -> str:
        ratio = (group["against_base"] or {}).get(figure)
        return f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else ""

    return column


def _usd(value: float) -> str:
    return f"${value:.3g}" if value else "-"


def _break_even(group: JsonObject) -> str:
    """Return the break-even in the first cost mode that has prices."""
    for mode in ("gpu_hour", "price_list"):
        if group["break_even"] and group["cost"][mode]["nanodollars"]:
            requests = group["break_even"][mode]["requests"]
            return requests if isinstance(requests, str) else f"{requests:,}"
    return ""


_COLUMNS: dict[str, Callable[[JsonObject], str]] = {
    "requests": lambda group: f"{group['requests']:,}",
    "not ok": lambda group: f"{group['requests'] - group['outcomes'].get('ok', 0):,}",
    "tokens in": lambda group: f"{group['tokens']['input']:,}",
    "cached": lambda group: f"{group['tokens']['cached']:,}",
    "out": lambda group: f"{group['tokens']['output']:,}",
    "first ms": _milliseconds("first_token", "p50"),
    "p95": _milliseconds("first_token", "p95"),
    "token ms": _milliseconds("time_per_output_token", "p50"),
    "all ms": _milliseconds("duration", "p50"),
    "by price": _cost("price_list"),
    "by GPU": _cost("gpu_hour"),
    "first / base": _relative_to_base("first_token_p50"),
    "GPU cost / base": _relative_to_base("gpu_hour_cost_mean"),
    "break-even": _break_even,
}
