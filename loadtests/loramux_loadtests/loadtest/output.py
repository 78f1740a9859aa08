"""What a load test was asked to do, and where it leaves what it found."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loramux_loadtests.loadtest.prices import PriceList
from loramux_loadtests.loadtest.report import BRIEF_COLUMNS, Findings, brief, document, facts, markdown, write_json
from loramux_loadtests.loadtest.scenario import Scenario
from loramux_loadtests.loadtest.sweep import Sweep

words = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Order:
    """What was asked for on the command line."""

    name: str
    scenario: Scenario
    servers: Sequence[str]
    seed: int
    output: Path
    api_key: str | None = field(default=None, repr=False)
    base: str | None = None
    prices: PriceList | None = None
    as_json: bool = False

    def rows(self, server: str) -> Path:
        """Where the rows of one server go."""
        return self.output / f"load-{plain(self.name)}.{plain(server)}.jsonl"

    @property
    def place(self) -> Path:
        """Where the report goes, without what its files' names end with."""
        return self.output / f"load-{plain(self.name)}"


def plain(text: str) -> str:
    """Text as a part of a file's name, whatever the user calls things."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")[:80] or "unnamed"


def write(order: Order, found: Sequence[Findings], sweeps: Sequence[Sweep] = ()) -> None:
    """Write the report as JSON, Markdown and HTML."""
    from loramux_loadtests.loadtest.page import page  # matplotlib takes a second, which should not be the load's

    order.output.mkdir(parents=True, exist_ok=True)
    write_json(order.place.with_suffix(".json"), document(found, sweeps))
    order.place.with_suffix(".md").write_text(markdown(found, sweeps), encoding="utf-8")
    order.place.with_suffix(".html").write_text(page(found, sweeps), encoding="utf-8")


def _brief(found: Findings) -> Table:
    """What fits on a screen."""
    lines = Table(title=Text(found.run.target), title_justify="left")
    for column in BRIEF_COLUMNS:
        lines.add_column(column, justify="left" if column == "route" else "right", overflow="fold")
    for name, summary in found.shown.items():
        lines.add_row(*map(Text, brief(name, summary)))
    return lines


def show(order: Order, found: Sequence[Findings], sweeps: Sequence[Sweep] = ()) -> None:
    """Print the report: the table for people, or JSON for programs."""
    out = Console(highlight=False)
    if order.as_json:
        print(json.dumps(document(found, sweeps), allow_nan=False))  # noqa: T201 - it is the result
        return
    for each in found:
        out.print(_brief(each))
    for fact in [*(fact for each in found for fact in facts(each)), *(sweep.told for sweep in sweeps)]:
        out.print(Text(fact), soft_wrap=True)
    words.print(Text(f"written: {order.place}.html, .md, .json"), soft_wrap=True)
