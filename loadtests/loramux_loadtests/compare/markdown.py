"""Tables of a comparison: in Markdown, also between the result marks of a README, and for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from loramux_adapters.evaluation.statistics import Interval
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.summary import ArmSummary, ComparisonSummary, PassSummary
from loramux_loadtests.report_tables import escape_markdown, markdown_table

BEGIN, END = "<!-- results: written by loramux compare -->", "<!-- end of results -->"
_COLUMNS = {
    "prompt tokens": "input_tokens",
    "cached": "cached_tokens",
    "output tokens": "output_tokens",
    "first token, s": "ttft",
    "whole answer, s": "seconds",
}


def summary_table(summary: ComparisonSummary, *, brief: bool = False) -> str:
    """The arms of each pass and the verdict, in Markdown; with `brief`, only the score that decides."""
    lines = []
    for pass_summary in summary.passes:
        columns, rows = _table_cells(
            pass_summary, [summary.score] if brief else [*pass_summary.arms[summary.challenger].scores]
        )
        head, *body = ([escape_markdown(cell) for cell in row] for row in (columns, *rows))
        lines += [f"{escape_markdown(summary.name)}{_pass_title(pass_summary)}:", "", *markdown_table(head, body), ""]
    return "\n".join([*lines, f"**{escape_markdown(summary.sentence)}**"])


def _pass_title(pass_summary: PassSummary) -> str:
    return f", {pass_summary.items} held-out items, {pass_summary.pass_} prefix cache"


def _table_cells(pass_summary: PassSummary, scores: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The column titles, and one row per arm."""
    first = next(iter(pass_summary.arms.values()))
    costs = [f"$ per 1,000, {mode.replace('_', ' ')}" for mode in first.costs]
    rows = [[name, *_cells(arm, scores)] for name, arm in pass_summary.arms.items()]
    return ["", *scores, *_COLUMNS, *costs], rows


def _cells(arm: ArmSummary, scores: Sequence[str]) -> list[str]:
    measured = [arm.measured[name] for name in _COLUMNS.values()]
    shares = [arm.scores[name] for name in scores]
    return [
        *(f"{share.estimate:.3f} [{share.low:.3f}, {share.high:.3f}]" for share in shares),
        *(format_value(value) for value in measured),
        *(f"{1000 * cost.estimate:.4f}" for cost in arm.costs.values()),
    ]


def terminal_table(summary: ComparisonSummary, pass_summary: PassSummary) -> Table:
    """The arms of a pass with the score that decides, for a terminal."""
    columns, rows = _table_cells(pass_summary, [summary.score])
    title = escape(f"{summary.name}{_pass_title(pass_summary)}")
    shown = Table(*map(escape, columns), title=title, title_justify="left")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def format_value(value: Interval | None) -> str:
    """An estimate, rounded for people."""
    if value is None:
        return "–"
    return f"{value.estimate:,.0f}" if value.estimate >= 10 or not value.estimate else f"{value.estimate:.3f}"


def write_tables(path: Path, summaries: Sequence[ComparisonSummary], *, brief: bool = False) -> None:
    """Replace the text between the result marks of a Markdown file.

    Raises:
        ComparisonError: the file can't be read, or has no result marks.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ComparisonError(f"{path} can't be read: {error.strerror}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ComparisonError(f"{path} has no marks for results: add the lines {BEGIN} and {END}")
    tables = "\n\n".join(summary_table(summary, brief=brief) for summary in summaries)
    path.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")
