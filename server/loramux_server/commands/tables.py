"""What `loramux adapter` prints: tables for people, the server's answer for programs."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

out = Console(highlight=False)


def versions(answer: Any, rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print versions, one a line."""
    if as_json:
        typer.echo(json.dumps(answer))
        return
    table = _table("version", "state", "share", "served", "rank", "parameters", "MB", "in the engine")
    totals: dict[str, float] = {}
    for row in rows:
        name = row["id"].partition("@")[0]
        totals[name] = totals.get(name, 0.0) + row["weight"]
    for row in rows:
        total = totals[row["id"].partition("@")[0]]
        table.add_row(
            row["id"],
            row["state"],
            f"{row['weight'] / total:.0%}" if row["weight"] else "",
            f"{row['uses']:,}",
            str(row["rank"]),
            f"{row['parameters']:,}",
            f"{row['weights_bytes'] / 1e6:.1f}",
            "yes" if row["resident"] else "no",
        )
    out.print(table)
    for row in rows:
        if row["reason"]:
            out.print(f"{row['id']} is {row['state']}: {row['reason']}", markup=False)


def proofs(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what each version answered to the probes, beside the base's answers."""
    for row in rows:
        proof = row["proof"]
        if proof is None:
            continue
        out.print()
        out.print(f"{row['id']} when it was tried (largest difference of a log-probability {proof['difference']:.2g}):")
        table = _table("prompt", "base", "adapter")
        for answer in proof["answers"]:
            table.add_row(*(escape(repr(answer[key])[1:-1]) for key in ("prompt", "base", "adapter")))
        out.print(table)


def history(answer: Any, *, as_json: bool) -> None:
    """Print changes, one a line."""
    if as_json:
        typer.echo(json.dumps(answer))
        return
    table = _table("when (UTC)", "who", "what", "adapter", "from", "to")
    for change in answer["data"]:
        when = datetime.fromtimestamp(change["at"], UTC)
        told = (_told(change["before"]), _told(change["after"]))
        table.add_row(f"{when:%Y-%m-%d %H:%M:%S}", change["actor"], change["action"], change["adapter"], *told)
    out.print(table)


def residency(answer: Any, *, as_json: bool) -> None:
    """Print what is in the engine."""
    if as_json:
        typer.echo(json.dumps(answer))
        return
    held = len(answer["resident"])
    out.print(f"{held} of {answer['host']} places, {answer['slots']} slots, {answer['waiting']} requests waiting")
    table = _table("version", "where", "requests", "pinned")
    for one in answer["resident"]:
        where = "loading" if one["loading"] else one["tier"]
        table.add_row(one["version"], where, str(one["leases"]), "yes" if one["pinned"] else "")
    out.print(table)
    for one in answer["broken"]:
        out.print(f"{one['version']} fails to load; tried again in {one['retry_in']:.0f} s", markup=False)


def _table(*headings: str) -> Table:
    return Table(*headings, box=None, header_style="bold")


def _told(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return escape(", ".join(f"{key}={item}" for key, item in value.items() if not isinstance(item, dict)))
    return escape(str(value))
