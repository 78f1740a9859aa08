"""What `loramux adapter` prints for people."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = Mapping[str, Any]

out = Console(highlight=False)


def adapters(rows: Sequence[Row]) -> None:
    """Print adapters, a version a line, and why some do not serve."""
    if not rows:
        out.print("no adapters: `loramux adapter add NAME FOLDER` adds one")
        return
    table = headed("version", "state", "share", "served", "rank", "MB", "in the engine")
    for adapter in rows:
        total = sum(version["weight"] for version in adapter["versions"])
        for version in adapter["versions"]:
            table.add_row(*_facts(version, total, is_pinned=adapter["pinned"]))
    out.print(table)
    for version in (version for adapter in rows for version in adapter["versions"]):
        _remarks(version)


def adapter(row: Row) -> None:
    """Print one adapter."""
    adapters([row])


def version(row: Row) -> None:
    """Print one version with all that is known of it, and what it answered when it was tried."""
    facts = {
        "version": row["id"],
        "state": row["state"],
        "added": _moment(row["created_at"]),
        "from": _told(row["source"]),
        "rank": f"{row['rank']} (alpha {row['alpha']:g}) on {', '.join(row['target_modules'])}",
        "size": f"{row['parameters']:,} parameters, {row['weights_bytes'] / 1e6:.1f} MB",
        "served": f"{row['uses']:,} requests",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    out.print(table)
    _remarks(row)
    if row["proof"] is not None:
        _proof(row["proof"])


def removed(row: Row) -> None:
    """Say that an adapter is gone."""
    out.print(f"removed {row['name']} with its {len(row['versions'])} versions", markup=False)


def history(rows: Sequence[Row]) -> None:
    """Print changes, one a line."""
    table = headed("when (UTC)", "who", "what", "adapter", "from", "to")
    for change in rows:
        told = (_told(change["before"]), _told(change["after"]))
        names = (change["actor"], change["action"], change["adapter"])
        table.add_row(_moment(change["at"]), *map(escape, (*names, *told)))
    out.print(table)


def residency(answer: Row) -> None:
    """Print what is in the engine."""
    held = len(answer["resident"])
    out.print(f"{held} of {answer['host']} places, {answer['slots']} slots, {answer['waiting']} requests waiting")
    table = headed("version", "where", "requests", "pinned")
    for one in answer["resident"]:
        where = "loading" if one["loading"] else one["tier"]
        table.add_row(one["version"], where, str(one["leases"]), "yes" if one["pinned"] else "")
    if held:
        out.print(table)
    for one in answer["broken"]:
        out.print(f"{one['version']} fails to load; tried again in {one['retry_in']:.0f} s", style="red")


def _facts(row: Row, total: float, *, is_pinned: bool) -> tuple[str, ...]:
    return (
        row["id"],
        row["state"],
        f"{row['weight'] / total:.3g}" if row["weight"] else "",
        f"{row['uses']:,}",
        str(row["rank"]),
        f"{row['weights_bytes'] / 1e6:.1f}",
        ("pinned" if is_pinned and row["weight"] else "yes") if row["resident"] else "",
    )


def _remarks(row: Row) -> None:
    if row["reason"]:
        out.print(f"{row['id']} is {row['state']}: {row['reason']}", style="red", markup=False)
    for warning in row["warnings"]:
        out.print(f"{row['id']}: {warning}", style="yellow", markup=False)


def _proof(proof: Row) -> None:
    out.print()
    table = headed("tried with", "the base answers", "with the adapter")
    for answer in proof["answers"]:
        table.add_row(*(escape(repr(answer[key])[1:-1]) for key in ("prompt", "base", "adapter")))
    out.print(table)
    if proof["difference"] is not None:
        out.print(f"\nlargest difference of a token's log-probability: {proof['difference']:.2g}")


def headed(*headings: str) -> Table:
    """Return an empty table."""
    table = Table(box=None, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _told(value: Any) -> str:
    """A JSON value on one line, without the braces that people need not see."""
    match value:
        case None:
            return ""
        case dict():
            return ", ".join(f"{key}: {_told(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
