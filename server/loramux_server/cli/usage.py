"""`loramux usage`: requests, latency and cost of each route, and the last controlled result of each adapter."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import typer
from rich.markup import escape

from loramux_server.cli.api_client import DEFAULT_URL, ApiClient, ApiKey, Url
from loramux_server.cli.console import JsonObject, column_table, print_result, stdout
from loramux_server.cli.controlled_results import print_controlled
from loramux_server.metering.ledger.labels import GroupBy

_COST_COLUMNS = {"price_list": "by price", "gpu_hour": "by GPU"}


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
    """Show requests, latency, tokens and cost of each route, and the last controlled result of each adapter.

    Routes are not compared with each other: live traffic is not an experiment.

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
    groups, total = report["groups"], report["total"]
    if not groups:
        stdout.print("no request finished in this time range")
        return
    table = column_table(report["group_by"], *(heading for heading, _ in _COLUMNS))
    for group in groups:
        table.add_row(escape(_label(group["label"])), *_cells(group))
    table.add_section()
    table.add_row(f"total of {report['count']:,}", *_cells(total))
    stdout.print(table)
    if report["count"] > len(groups):
        stdout.print(f"{report['count'] - len(groups)} more are not listed: --limit {report['count']} shows all")
    _print_unpriced(total)
    _print_engine(report["engine"])
    _print_training(report["training"])
    if report["group_by"] in (GroupBy.ADAPTER, GroupBy.VERSION):
        print_controlled(groups)


def _print_unpriced(total: JsonObject) -> None:
    for mode, column in _COST_COLUMNS.items():
        if count := total["cost"][mode]["unpriced_requests"]:
            stdout.print(f"{column}: {count:,} requests unpriced; their cost is unknown and in no sum")


def _print_engine(engine: JsonObject) -> None:
    if engine["seconds"]:
        busy = f"busy {engine['busy_seconds'] / engine['seconds']:.0%} of {engine['seconds'] / 3600:,.1f} hours"
        stdout.print(f"engine, all requests: {busy}, cost of idle time {_usd(engine['idle_usd'])}")


def _print_training(training: JsonObject) -> None:
    """Print the cost of fine-tuning, which is in no request's cost."""
    if training["jobs"]:
        unpriced = training["unpriced_jobs"]
        costs = (
            f"{column} {_usd(training[f'{mode}_usd'])}" + (f" ({unpriced[mode]} unpriced)" if unpriced[mode] else "")
            for mode, column in _COST_COLUMNS.items()
        )
        stdout.print(f"fine-tuning, all adapters: {training['jobs']} jobs, {', '.join(costs)}")


def _label(label: Mapping[str, str]) -> str:
    """Return the most specific part of a label: an adapter's name instead of `adapter`."""
    if label.get("version"):
        return f"{label['adapter']}@{label['version']}"
    return next((value for value in reversed(list(label.values())) if value), "-")


def _cells(group: JsonObject) -> Iterator[str]:
    return (column(group) for _, column in _COLUMNS)


def _milliseconds(measure: str, quantile: str) -> Callable[[JsonObject], str]:
    def column(group: JsonObject) -> str:
        value = group["latency"][measure][quantile]
        return "-" if value is None else f"{value * 1000:,.0f}"

    return column


def _cost(mode: str, figure: str) -> Callable[[JsonObject], str]:
    return lambda group: _usd(group["cost"][mode][figure])


def _usd(value: float | None) -> str:
    return "-" if value is None else f"${value:.3g}"


_COLUMNS: Sequence[tuple[str, Callable[[JsonObject], str]]] = (
    ("requests", lambda group: f"{group['requests']:,}"),
    ("not ok", lambda group: f"{group['requests'] - group['outcomes'].get('ok', 0):,}"),
    ("tokens in", lambda group: f"{group['tokens']['input']:,}"),
    ("cached", lambda group: f"{group['tokens']['cached']:,}"),
    ("out", lambda group: f"{group['tokens']['output']:,}"),
    ("first ms", _milliseconds("first_token", "p50")),
    ("p95", _milliseconds("first_token", "p95")),
    ("token ms", _milliseconds("time_per_output_token", "p50")),
    ("all ms", _milliseconds("duration", "p50")),
    ("by price", _cost("price_list", "usd")),
    ("per request", _cost("price_list", "usd_per_request")),
    ("by GPU", _cost("gpu_hour", "usd")),
    ("per request", _cost("gpu_hour", "usd_per_request")),
)
"""Latencies are medians and a 95 % quantile; costs a total and its average."""
