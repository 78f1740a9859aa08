"""A comparison as tables: Markdown, in the place that a README has for it, and a short one for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from loramux_adapters.evaluation.statistics import Interval
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.summary import ArmSummary, PassSummary, Summary
from loramux_loadtests.report import escaped, rows_as_table

BEGIN, END = "<!-- results: written by loramux compare -->", "<!-- end of results -->"
_COLUMNS = {
    "prompt tokens": "input_tokens",
    "cached": "cached_tokens",
    "output tokens": "output_tokens",
    "first token, s": "ttft",
    "whole answer, s": "seconds",
}


def table(summary: Summary, *, brief: bool = False) -> str:
    """The arms of each pass, and the verdict; a brief one has only the score that counts."""
    lines = []
    for found in summary.passes:
        columns, rows = _arms(found, [summary.score] if brief else [*found.arms[summary.challenger].scores])
        head, *body = ([escaped(cell) for cell in row] for row in (columns, *rows))
        lines += [f"{escaped(summary.name)}{_about(found)}:", "", *rows_as_table(head, body), ""]
    return "\n".join([*lines, f"**{escaped(summary.sentence)}**"])


def _about(found: PassSummary) -> str:
    return f", {found.items} held-out items, {found.pass_} prefix cache"


def _arms(found: PassSummary, scores: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The columns, and a row for each arm."""
    first = next(iter(found.arms.values()))
    costs = [f"$ a 1,000, {mode.replace('_', ' ')}" for mode in first.costs]
    rows = [[name, *_cells(arm, scores)] for name, arm in found.arms.items()]
    return ["", *scores, *_COLUMNS, *costs], rows


def _cells(arm: ArmSummary, scores: Sequence[str]) -> list[str]:
    measured = [arm.measured[name] for name in _COLUMNS.values()]
    shares = [arm.scores[name] for name in scores]
    return [
        *(f"{share.estimate:.3f} [{share.low:.3f}, {share.high:.3f}]" for share in shares),
        *(short(value) for value in measured),
        *(f"{1000 * cost.estimate:.4f}" for cost in arm.costs.values()),
    ]


def overview(summary: Summary, found: PassSummary) -> Table:
    """What people look at first, for a terminal."""
    columns, rows = _arms(found, [summary.score])
    title = escape(f"{summary.name}{_about(found)}")
    shown = Table(*map(escape, columns), title=title, title_justify="left")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def short(value: Interval | None) -> str:
    """A figure as exact as people need it."""
    if value is None:
        return "–"
    return f"{value.estimate:,.0f}" if value.estimate >= 10 or not value.estimate else f"{value.estimate:.3f}"


def write_tables(path: Path, summaries: Sequence[Summary], *, brief: bool = False) -> None:
    """Rewrite what stands between the result marks of a Markdown file; ComparisonError when it has no such marks."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ComparisonError(f"{path} can't be read: {error.strerror}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ComparisonError(f"{path} has no place for results: {BEGIN} … {END}")
    tables = "\n\n".join(table(summary, brief=brief) for summary in summaries)
    path.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")
