"""The report of a comparison: one self-contained HTML page, and JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, select_autoescape

from loramux_adapters.evaluation.statistics import Interval
from loramux_loadtests.compare import plots
from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.markdown import format_value
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.summary import ComparisonSummary
from loramux_loadtests.machine import describe_machine

MAX_DISAGREEMENTS = 12


class Disagreement(NamedTuple):
    """An item whose scores differ; `difference` is positive where the challenger is better."""

    question: str
    expected: str
    answers: Mapping[str, str]
    difference: float


def disagreements(comparison: Comparison, answers: Sequence[ScoredAnswer]) -> list[Disagreement]:
    """Items of the last pass with the largest differences: first the worst for the challenger, then the best."""
    last = answers[-1].pass_
    by_item: dict[int, dict[str, ScoredAnswer]] = {}
    for answer in answers:
        if answer.pass_ == last and answer.scores:
            by_item.setdefault(answer.item, {})[answer.arm] = answer
    found = [
        Disagreement(
            comparison.items[item].messages[-1]["content"],
            comparison.items[item].expected,
            {arm: answer.text for arm, answer in arms.items()},
            _main_score(arms[comparison.challenger]) - _main_score(arms[comparison.reference]),
        )
        for item, arms in sorted(by_item.items())
        if {comparison.challenger, comparison.reference} <= arms.keys()
    ]
    ordered = sorted((item for item in found if item.difference), key=lambda item: item.difference)
    half = MAX_DISAGREEMENTS // 2
    worse, better = (
        [item for item in ordered if item.difference < 0][:half],
        [item for item in ordered[::-1] if item.difference > 0],
    )
    return [*worse, *better[: MAX_DISAGREEMENTS - len(worse)]]


def _main_score(answer: ScoredAnswer) -> float:
    return next(iter(answer.scores.values()))


def render_html(
    comparison: Comparison, summary: ComparisonSummary, answers: Sequence[ScoredAnswer], facts: Mapping[str, Any]
) -> str:
    """Render the page; all text of models and users is escaped."""
    templates = PackageLoader("loramux_loadtests.compare")
    environment = Environment(loader=templates, autoescape=select_autoescape(default=True), trim_blocks=True)
    environment.filters |= {"interval": _interval, "short": format_value, "per_thousand": _per_thousand}
    last = summary.passes[-1]
    confusion_plots = [plots.confusion(comparison, answers, arm.name) for arm in comparison.arms]
    return environment.get_template("page.html").render(
        summary=summary,
        quality=plots.quality(summary),
        break_even={mode: plots.break_even(summary, last, mode) for mode in last.paid},
        confusions=[plot for plot in confusion_plots if plot],
        disagreements=disagreements(comparison, answers),
        arms=comparison.arms,
        facts={**facts, **describe_machine()},
    )


def _interval(value: Interval | None) -> str:
    return "–" if value is None else f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _per_thousand(cost: Interval) -> str:
    """US dollars per thousand requests."""
    low, estimate, high = (1000 * value for value in cost)
    return f"{estimate:.4f} [{low:.4f}, {high:.4f}]"


def write_report(
    folder: Path,
    comparison: Comparison,
    summary: ComparisonSummary,
    answers: Sequence[ScoredAnswer],
    facts: Mapping[str, Any],
) -> None:
    """Write `report.html` and `report.json` to the folder."""
    document = summary.model_dump() | {"facts": dict(facts), "machine": describe_machine()}
    (folder / "report.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render_html(comparison, summary, answers, facts), encoding="utf-8")
