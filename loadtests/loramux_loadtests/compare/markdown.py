"""Tables of a comparison: in Markdown, also between the result marks of a README, and for a terminal."""

from collections.abc import Sequence
from math import isclose
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning
from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.verdict import Verdict
from loramux_loadtests.compare.arms import ArmSummary
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.summary import ComparisonSummary, PassSummary
from loramux_loadtests.report_tables import escape_markdown, markdown_table

BEGIN, END = "<!-- results: written by loramux compare -->", "<!-- end of results -->"
DOUBTFUL: frozenset[Verdict] = frozenset({"neither works", "scorer in doubt"})
"""Verdicts that a reader can only judge with answers to look at."""
_MAX_SAMPLE_CHARS, _MAX_ITEM_NUMBERS = 80, 10
_COLUMNS = {
    "prompt tokens": "input_tokens",
    "cached": "cached_tokens",
    "output tokens": "output_tokens",
    "first token, s": "ttft",
    "whole answer, s": "seconds",
}


def summary_table(summary: ComparisonSummary, *, brief: bool = False) -> str:
    """The arms of each pass and the verdict, in Markdown; `brief`: only the score that decides, no warnings."""
    lines = []
    for pass_summary in summary.passes:
        columns, rows = _table_cells(
            pass_summary, [summary.score] if brief else [*pass_summary.arms[summary.challenger].scores]
        )
        lines += [
            f"{escape_markdown(summary.name)}{_pass_title(pass_summary)}:",
            "",
            *_escaped_table(columns, rows),
            "",
        ]
    lines += [f"**{escape_markdown(summary.sentence)}**", "", escape_markdown(basis_sentence(summary))]
    return "\n".join(lines if brief else [*lines, *_details(summary)])


def _details(summary: ComparisonSummary) -> list[str]:
    relative = _escaped_table(["", summary.score, "verdict", "why"], relative_cells(summary))
    lines = ["", *relative]
    if summary.warnings:
        lines += ["", *(f"- Warning: {escape_markdown(warning_text(warning))}" for warning in summary.warnings)]
    if summary.verdict in DOUBTFUL:
        lines += ["", "Sample answers:", "", *_escaped_table(*sample_cells(summary))]
    return lines


def _escaped_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ([escape_markdown(cell) for cell in row] for row in (columns, *rows))
    return markdown_table(head, body)


def basis_sentence(summary: ComparisonSummary) -> str:
    """How the reference was chosen, and what the intervals of the differences and the margin mean."""
    choice = summary.reference_choice
    chosen = ""
    if choice:
        scores = ", ".join(f"“{name}” {mean:.2f}" for name, mean in choice.scores.items())
        few = f"{len(choice.items)} other items, which count for nothing else, chose the reference"
        chosen = f"{few}, so few that another may be as good: {scores}. "
    several = len(summary.passes[-1].relative) > 1
    at_once = ", so that with 95 % all of them are right at once" if several else ""
    return (
        f"{chosen}Differences to “{summary.reference}” are by item, with {100 * summary.confidence:.4g} % intervals"
        f"{at_once}; within ±{summary.margin:g} they do not matter."
    )


def relative_cells(summary: ComparisonSummary) -> list[list[str]]:
    """One row for each arm but the reference: its difference, verdict and reason in the last pass."""
    return [
        [name, format_difference(found.difference), found.verdict, found.reason]
        for name, found in summary.passes[-1].relative.items()
    ]


def sample_cells(summary: ComparisonSummary) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of the sample answers, shortened."""
    arms = list(summary.passes[-1].arms)
    rows = [
        [sample.question, sample.expected, *(sample.arms[name].text or "(an empty answer)" for name in arms)]
        for sample in summary.samples
    ]
    return ["question", "expected", *arms], [[shorten(cell, _MAX_SAMPLE_CHARS) for cell in row] for row in rows]


def printable(text: str) -> str:
    """The text on one line, without control characters, which a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def shorten(text: str, length: int) -> str:
    """The text on one line of at most `length` characters."""
    line = printable(text)
    return line if len(line) <= length else f"{line[: length - 1]}…"


def warning_text(warning: EvaluationWarning) -> str:
    """A warning as a sentence, with the numbers of its first items, counted from 1."""
    numbers = ", ".join(str(item + 1) for item in warning.items[:_MAX_ITEM_NUMBERS])
    more = ", ..." if len(warning.items) > _MAX_ITEM_NUMBERS else ""
    where = f" (items {numbers}{more})" if len(warning.items) > 0 else ""
    return f"{warning.message}{where}."


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
        *map(format_interval, shares),
        *(format_value(value) for value in measured),
        *(f"{1000 * cost.estimate:.4f}" if cost else "–" for cost in arm.costs.values()),
    ]


def terminal_table(summary: ComparisonSummary, pass_summary: PassSummary) -> Table:
    """The arms of a pass with the score that decides, for a terminal."""
    columns, rows = _table_cells(pass_summary, [summary.score])
    title = escape(f"{summary.name}{_pass_title(pass_summary)}")
    shown = Table(*map(escape, columns), title=title, title_justify="left")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def terminal_samples(summary: ComparisonSummary) -> Table:
    """The sample answers, for a terminal."""
    columns, rows = sample_cells(summary)
    shown = Table(*map(escape, columns), title="Sample answers", title_justify="left")
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def format_value(value: Interval | None) -> str:
    """An estimate, rounded for people; a dash for one that is not known."""
    if value is None:
        return "–"
    return f"{value.estimate:,.0f}" if value.estimate >= 10 or not value.estimate else f"{value.estimate:.3f}"


def format_interval(value: Interval | None) -> str:
    """An estimate with its interval; without one, where all values were the same and it would have no width."""
    if value is None:
        return "–"
    is_constant = isclose(value.low, value.high, rel_tol=1e-9)
    return f"{value.estimate:.3f}" + ("" if is_constant else f" [{value.low:.3f}, {value.high:.3f}]")


def format_difference(value: Interval) -> str:
    """A difference of scores with its interval."""
    return f"{value.estimate:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


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
