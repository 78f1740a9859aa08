"""The arguments of a load test, and its output: files and terminal."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loramux_adapters.evaluation.token_prices import PriceList
from loramux_loadtests.loadtest.report import (
    BRIEF_COLUMNS,
    RunReport,
    brief_cells,
    fact_lines,
    report_document,
    report_markdown,
    write_json,
)
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.sweep import SweepResult

stderr = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Invocation:
    """The arguments of `loramux loadtest run` and `sweep`."""

    name: str
    scenario: Scenario
    servers: Sequence[str]
    seed: int
    output: Path
    api_key: str | None = field(default=None, repr=False)
    base: str | None = None
    prices: PriceList | None = None
    as_json: bool = False

    def rows_path(self, server: str) -> Path:
        """Path of the rows of one server."""
        return self.output / f"load-{safe_name(self.name)}.{safe_name(server)}.jsonl"

    @property
    def report_path(self) -> Path:
        """Path of the report without the suffix."""
        return self.output / f"load-{safe_name(self.name)}"


def safe_name(text: str) -> str:
    """Make text safe as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")[:80] or "unnamed"


def write_report(invocation: Invocation, reports: Sequence[RunReport], sweeps: Sequence[SweepResult] = ()) -> None:
    """Write the report as JSON, Markdown and HTML."""
    from loramux_loadtests.loadtest.page import render_page  # importing matplotlib takes a second: not during the load

    invocation.output.mkdir(parents=True, exist_ok=True)
    write_json(invocation.report_path.with_suffix(".json"), report_document(reports, sweeps))
    invocation.report_path.with_suffix(".md").write_text(report_markdown(reports, sweeps), encoding="utf-8")
    invocation.report_path.with_suffix(".html").write_text(render_page(reports, sweeps), encoding="utf-8")


def _brief_table(report: RunReport) -> Table:
    """The table for a terminal."""
    lines = Table(title=Text(report.run.target), title_justify="left")
    for column in BRIEF_COLUMNS:
        lines.add_column(column, justify="left" if column == "route" else "right", overflow="fold")
    for name, summary in report.shown.items():
        lines.add_row(*map(Text, brief_cells(name, summary)))
    return lines


def print_report(invocation: Invocation, reports: Sequence[RunReport], sweeps: Sequence[SweepResult] = ()) -> None:
    """Print the report as a table, or as JSON if requested."""
    out = Console(highlight=False)
    if invocation.as_json:
        print(json.dumps(report_document(reports, sweeps), allow_nan=False))  # noqa: T201 - it is the result
        return
    for each in reports:
        out.print(_brief_table(each))
    for fact in [*(fact for each in reports for fact in fact_lines(each)), *(sweep.description for sweep in sweeps)]:
        out.print(Text(fact), soft_wrap=True)
    stderr.print(Text(f"written: {invocation.report_path}.html, .md, .json"), soft_wrap=True)
