"""The report of a comparison: one self-contained HTML page, and JSON."""

import json
from collections.abc import Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, select_autoescape

from loramux_adapters.evaluation.statistics import Interval
from loramux_loadtests.compare import plots
from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.markdown import (
    basis_sentence,
    format_difference,
    format_interval,
    format_value,
    warning_text,
)
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.samples import Sample, answers_by_item, sample
from loramux_loadtests.compare.summary import ComparisonSummary
from loramux_loadtests.machine import describe_machine

MAX_DISAGREEMENTS = 12
_CLASSES = {"better": "better", "as good": "better", "worse": "worse"}
"""Only what is shown has a colour."""


class Disagreement(NamedTuple):
    """An item whose scores differ; `difference` is positive where the challenger is better."""

    sample: Sample
    difference: float


def disagreements(
    comparison: Comparison, summary: ComparisonSummary, answers: Sequence[ScoredAnswer]
) -> list[Disagreement]:
    """Items of the last pass with the largest differences: first the worst for the challenger, then the best."""
    names = summary.challenger, summary.reference
    found = [
        Disagreement(
            sample(comparison, item, arms),
            arms[names[0]].scores[summary.score] - arms[names[1]].scores[summary.score],
        )
        for item, arms in sorted(answers_by_item(answers).items())
        if all(name in arms and arms[name].scores for name in names)
    ]
    ordered = sorted((item for item in found if item.difference), key=lambda item: item.difference)
    half = MAX_DISAGREEMENTS // 2
    worse, better = (
        [item for item in ordered if item.difference < 0][:half],
        [item for item in ordered[::-1] if item.difference > 0],
    )
    return [*worse, *better[: MAX_DISAGREEMENTS - len(worse)]]


def render_html(
    comparison: Comparison, summary: ComparisonSummary, answers: Sequence[ScoredAnswer], facts: Mapping[str, Any]
) -> str:
    """Render the page; all text of models and users is escaped."""
    templates = PackageLoader("loramux_loadtests.compare")
    environment = Environment(loader=templates, autoescape=select_autoescape(default=True), trim_blocks=True)
    environment.filters |= {
        "interval": format_interval,
        "difference": format_difference,
        "short": format_value,
        "per_thousand": _per_thousand,
        "warning": warning_text,
    }
    last = summary.passes[-1]
    judged = [answer for answer in answers if answer.item not in summary.left_out]
    confusion_plots = [plots.confusion(comparison, judged, arm.name) for arm in comparison.arms]
    return environment.get_template("page.html").render(
        summary=summary,
        verdict_class=_CLASSES.get(summary.verdict, ""),
        quality=plots.quality(summary),
        break_even={mode: plots.break_even(summary, last, mode) for mode in last.paid},
        confusions=[plot for plot in confusion_plots if plot],
        basis=basis_sentence(summary),
        disagreements=disagreements(comparison, summary, judged),
        same=[Disagreement(each, 0.0) for each in summary.samples],
        arms=comparison.arms,
        facts={**facts, **describe_machine()},
    )


def _per_thousand(cost: Interval | None) -> str:
    """US dollars per thousand requests."""
    if cost is None:
        return "–"
    low, estimate, high = (1000 * value for value in cost)
    return f"{estimate:.4f}" if isclose(low, high, rel_tol=1e-9) else f"{estimate:.4f} [{low:.4f}, {high:.4f}]"


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
