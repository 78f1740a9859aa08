"""`loramux usage`: what each route did and cost, beside the base."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from loramux_server.cli.adapter_names import shown
from loramux_server.cli.adapter_tables import headed, out
from loramux_server.cli.api_client import DEFAULT_URL, ApiKey, Server, Url
from loramux_server.metering.ledger.labels import GroupBy

Row = Mapping[str, Any]


def usage(
    group_by: Annotated[GroupBy, typer.Option(help="What to tell apart.")] = GroupBy.ADAPTER,
    since: Annotated[str | None, typer.Option(help="ISO 8601 (UTC), or Unix seconds; else a day before UNTIL.")] = None,
    until: Annotated[str | None, typer.Option(help="As SINCE; now, if left out.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Of this adapter only.")] = None,
    key: Annotated[str | None, typer.Option(help="Of this key only, by its id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many groups, the dearest first.")] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table for spreadsheets, with all figures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the server answered, for programs.")] = False,
) -> None:
    """Show what each route did and cost: requests, latency, tokens, money, and all of it against the base.

    Examples:

    - loramux usage

    - loramux usage --group-by day --since 2026-01-01 --csv > january.csv
    """
    asked = {"group_by": group_by.value, "since": since, "until": until, "adapter": adapter, "key": key, "limit": limit}
    query = {name: value for name, value in asked.items() if value is not None}
    server = Server(url, api_key)
    if as_csv:
        print(server.text("/admin/usage", {**query, "format": "csv"}), end="")  # noqa: T201 - it is the result
    else:
        shown(server.call("GET", "/admin/usage", query=query), _print, as_json=as_json)


def _print(report: Row) -> None:
    out.print(f"{report['since']} to {report['until']}, by {report['group_by']}")
    if not report["groups"]:
        out.print("no request ended in this time")
        return
    found = headed(report["group_by"], *_COLUMNS)
    for group in report["groups"]:
        found.add_row(escape(_label(group["label"])), *(column(group) for column in _COLUMNS.values()))
    out.print(found)
    if report["count"] > len(report["groups"]):
        out.print(f"and {report['count'] - len(report['groups'])} more: --limit {report['count']} shows all")
    engine = report["engine"]
    out.print(
        f"engine: busy {engine['busy_seconds'] / (engine['seconds'] or 1):.0%} of the time, idle time cost "
        f"{_usd(engine['idle_usd'])}"
    )


def _label(label: Mapping[str, str]) -> str:
    """The narrowest name in a label: an adapter rather than that it is one."""
    if label.get("version"):
        return f"{label['adapter']}@{label['version']}"
    return next((value for value in reversed(list(label.values())) if value), "-")


def _seconds(measure: str, quantile: str) -> Callable[[Row], str]:
    def column(group: Row) -> str:
        value = group["latency"][measure][quantile]
        return "" if value is None else f"{value * 1000:,.0f}"

    return column


def _cost(mode: str) -> Callable[[Row], str]:
    return lambda group: _usd(group["cost"][mode]["usd_per_request"])


def _against(figure: str) -> Callable[[Row], str]:
    def column(group: Row) -> str:
        found = (group["against_base"] or {}).get(figure)
        return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if found else ""

    return column


def _usd(value: float) -> str:
    return f"${value:.3g}" if value else "-"


def _break_even(group: Row) -> str:
    """By the way of counting in which anything costs anything."""
    for mode in ("gpu_hour", "price_list"):
        if group["break_even"] and group["cost"][mode]["nanodollars"]:
            requests = group["break_even"][mode]["requests"]
            return requests if isinstance(requests, str) else f"{requests:,}"
    return ""


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "requests": lambda group: f"{group['requests']:,}",
    "not ok": lambda group: f"{group['requests'] - group['outcomes'].get('ok', 0):,}",
    "tokens in": lambda group: f"{group['tokens']['input']:,}",
    "cached": lambda group: f"{group['tokens']['cached']:,}",
    "out": lambda group: f"{group['tokens']['output']:,}",
    "first ms": _seconds("first_token", "p50"),
    "p95": _seconds("first_token", "p95"),
    "token ms": _seconds("time_per_output_token", "p50"),
    "all ms": _seconds("duration", "p50"),
    "by price": _cost("price_list"),
    "by GPU": _cost("gpu_hour"),
    "first / base": _against("first_token_p50"),
    "GPU cost / base": _against("gpu_hour_cost_mean"),
    "pays after": _break_even,
}
