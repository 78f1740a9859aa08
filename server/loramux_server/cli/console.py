"""Console output that all commands share: results on standard output, everything else on standard error."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TransferSpeedColumn as SpeedColumn
from rich.table import Table

JsonObject = Mapping[str, Any]

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def fail(reason: object, code: int = 1) -> NoReturn:
    """Print `reason` to standard error and exit with `code`.

    Raises:
        typer.Exit: always.

    """
    stderr.print(str(reason), style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def print_result(result: Any, render: Callable[[Any], None], *, as_json: bool) -> None:
    """Print `result` as JSON for programs, or with `render` for people."""
    if as_json:
        typer.echo(json.dumps(result))
    else:
        render(result)


def column_table(*headings: str) -> Table:
    """Return an empty table with these columns."""
    table = Table(box=None, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def fact_table(facts: Mapping[str, str]) -> Table:
    """Return a table with one line per fact, name and value; empty values are left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            table.add_row(f"[bold]{name}[/]", escape(value))
    return table


def step_progress() -> Progress:
    """Return a progress display that counts steps; each task needs the field `note`."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    return Progress(TextColumn("{task.description}"), *columns, console=stderr)


def byte_progress() -> Progress:
    """Return a progress display that counts bytes, and disappears at its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
    return Progress(*columns, console=stderr, transient=True)
