"""Tables that `loramux adapter` prints."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape

from loramux_server.cli.console import JsonObject, column_table, fact_table, stdout


def adapters(adapters: Sequence[JsonObject]) -> None:
    """Print adapters, one version per line, and why some are not served."""
    if not adapters:
        stdout.print("no adapters; add one with `loramux adapter add NAME FOLDER`")
        return
    table = column_table("version", "state", "share", "requests", "rank", "MB", "in the engine")
    for adapter in adapters:
        total = sum(version["weight"] for version in adapter["versions"])
        for version in adapter["versions"]:
            table.add_row(*_cells(version, total, is_pinned=adapter["pinned"]))
    stdout.print(table)
    for version in (version for adapter in adapters for version in adapter["versions"]):
        _print_problems(version)


def adapter(adapter: JsonObject) -> None:
    """Print one adapter."""
    adapters([adapter])


def version(row: JsonObject) -> None:
    """Print the details of one version and the result of its effect check."""
    facts = {
        "version": row["id"],
        "state": row["state"],
        "added": _moment(row["created_at"]),
        "from": _one_line(row["source"]),
        "rank": f"{row['rank']} (alpha {row['alpha']:g}) on {', '.join(row['target_modules'])}",
        "size": f"{row['parameters']:,} parameters, {row['weights_bytes'] / 1e6:.1f} MB",
        "requests": f"{row['uses']:,} since it was added",
    }
    stdout.print(fact_table(facts))
    _print_problems(row)
    if row["proof"] is not None:
        _print_effect_check(row["proof"])


def removed(adapter: JsonObject) -> None:
    """Print that an adapter was removed."""
    stdout.print(f"removed {adapter['name']} with its {len(adapter['versions'])} versions", markup=False)


def history(changes: Sequence[JsonObject]) -> None:
    """Print changes, one per line."""
    table = column_table("when (UTC)", "who", "what", "adapter", "from", "to")
    for change in changes:
        values = (_one_line(change["before"]), _one_line(change["after"]))
        names = (change["actor"], change["action"], change["adapter"])
        table.add_row(_moment(change["at"]), *map(escape, (*names, *values)))
    stdout.print(table)


def residency(residency: JsonObject) -> None:
    """Print which versions are loaded in the engine."""
    resident = len(residency["resident"])
    stdout.print(
        f"{resident} of {residency['host']} versions in host memory, {residency['slots']} slots, "
        f"{residency['waiting']} requests waiting"
    )
    table = column_table("version", "where", "runs in flight", "pinned")
    for one in residency["resident"]:
        where = "loading" if one["loading"] else one["tier"]
        table.add_row(one["version"], where, str(one["leases"]), "yes" if one["pinned"] else "")
    if resident:
        stdout.print(table)
    for one in residency["broken"]:
        stdout.print(f"{one['version']} fails to load; next attempt in {one['retry_in']:.0f} s", style="red")


def _cells(row: JsonObject, total: float, *, is_pinned: bool) -> tuple[str, ...]:
    return (
        row["id"],
        row["state"],
        f"{100 * row['weight'] / total:.3g} %" if row["weight"] else "",
        f"{row['uses']:,}",
        str(row["rank"]),
        f"{row['weights_bytes'] / 1e6:.1f}",
        ("pinned" if is_pinned and row["weight"] else "yes") if row["resident"] else "",
    )


def _print_problems(row: JsonObject) -> None:
    if row["reason"]:
        stdout.print(f"{row['id']} is {row['state']}: {row['reason']}", style="red", markup=False)
    for warning in row["warnings"]:
        stdout.print(f"{row['id']}: {warning}", style="yellow", markup=False)


def _print_effect_check(check: JsonObject) -> None:
    stdout.print()
    table = column_table("prompt", "base", "adapter")
    for answer in check["answers"]:
        table.add_row(*(escape(repr(answer[key])[1:-1]) for key in ("prompt", "base", "adapter")))
    stdout.print(table)
    if check["difference"] is not None:
        stdout.print(f"\nlargest difference in a token's log-probability: {check['difference']:.2g}")


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _one_line(value: Any) -> str:
    """Return a JSON value on one line, without braces."""
    match value:
        case None:
            return ""
        case dict():
            return ", ".join(f"{key}: {_one_line(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
