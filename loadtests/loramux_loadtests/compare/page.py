"""A comparison as one page that needs nothing else: tables, pictures, and the answers that differ most."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, select_autoescape

from loramux_adapters.evaluation.statistics import Interval
from loramux_loadtests.compare import plots
from loramux_loadtests.compare.markdown import short
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.rows import Row
from loramux_loadtests.compare.summary import Summary
from loramux_loadtests.report import describe_machine

MOST_DISAGREEMENTS = 12


class Disagreement(NamedTuple):
    """An item on which challenger and reference differ most; positive where the challenger is better."""

    question: str
    expected: str
    answers: Mapping[str, str]
    difference: float


def disagreements(comparison: Comparison, rows: Sequence[Row]) -> list[Disagreement]:
    """The worst for the challenger first, then its best: half of each, of the last pass."""
    last = rows[-1].pass_
    by_item: dict[int, dict[str, Row]] = {}
    for row in rows:
        if row.pass_ == last and row.scores:
            by_item.setdefault(row.item, {})[row.arm] = row
    found = [
        Disagreement(
            comparison.items[item].messages[-1]["content"],
            comparison.items[item].expected,
            {arm: row.text for arm, row in arms.items()},
            _main(arms[comparison.challenger]) - _main(arms[comparison.reference]),
        )
        for item, arms in sorted(by_item.items())
        if {comparison.challenger, comparison.reference} <= arms.keys()
    ]
    ordered = sorted((one for one in found if one.difference), key=lambda one: one.difference)
    half = MOST_DISAGREEMENTS // 2
    worse, better = (
        [one for one in ordered if one.difference < 0][:half],
        [one for one in ordered[::-1] if one.difference > 0],
    )
    return [*worse, *better[: MOST_DISAGREEMENTS - len(worse)]]


def _main(row: Row) -> float:
    return next(iter(row.scores.values()))


def html(comparison: Comparison, summary: Summary, rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The page; whatever a model or a user wrote is text in it and nothing else."""
    templates = PackageLoader("loramux_loadtests.compare")
    environment = Environment(loader=templates, autoescape=select_autoescape(default=True), trim_blocks=True)
    environment.filters |= {"interval": _interval, "short": short, "thousand": _thousand}
    last = summary.passes[-1]
    confusions = [plots.confusion(comparison, rows, arm.name) for arm in comparison.arms]
    return environment.get_template("page.html").render(
        summary=summary,
        quality=plots.quality(summary),
        break_even={mode: plots.break_even(summary, last, mode) for mode in last.paid},
        confusions=[picture for picture in confusions if picture],
        disagreements=disagreements(comparison, rows),
        arms=comparison.arms,
        facts={**facts, **describe_machine()},
    )


def _interval(value: Interval | None) -> str:
    return "–" if value is None else f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _thousand(cost: Interval) -> str:
    """US dollars for a thousand requests."""
    low, estimate, high = (1000 * value for value in cost)
    return f"{estimate:.4f} [{low:.4f}, {high:.4f}]"


def write(
    folder: Path, comparison: Comparison, summary: Summary, rows: Sequence[Row], facts: Mapping[str, Any]
) -> None:
    """Write `report.html` and `report.json` to the folder."""
    document = summary.model_dump() | {"facts": dict(facts), "machine": describe_machine()}
    (folder / "report.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(html(comparison, summary, rows, facts), encoding="utf-8")
