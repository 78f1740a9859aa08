"""Plots of a comparison, as data URLs of SVG images."""

import base64
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from loramux_adapters.evaluation.scorers.texts import LabelScorer
from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.automatic import AutoScorer
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.summary import ComparisonSummary, PassSummary

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#c2410c", "#64748b"
_NO_LABEL = "(none)"
MAX_LABELS = 30
_plain = mpl.rc_context({"text.parse_math": False})
"""Names that users chose are not formulas, even with dollar signs in them."""


@_plain
def quality(summary: ComparisonSummary) -> str:
    """Plot each arm's score with its interval."""
    arms = summary.passes[-1].arms
    names = list(arms)[::-1]
    figure = Figure(figsize=(8, 0.9 + 0.45 * len(names)), layout="constrained")
    axes = figure.subplots()
    for position, name in enumerate(names):
        low, mean, high = arms[name].scores[summary.score]
        colour = _ORANGE if name == summary.challenger else _BLUE if name == summary.reference else _GREY
        axes.errorbar(mean, position, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=4, linewidth=2)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel=summary.score, ylim=(-0.6, len(names) - 0.4))
    axes.grid(axis="x", alpha=0.3)
    return _url(figure)


@_plain
def break_even(summary: ComparisonSummary, pass_summary: PassSummary, mode: str) -> str:
    """Plot the cost of a month with the challenger and with the reference against the requests in it."""
    paid = pass_summary.paid[mode]
    costs = [pass_summary.arms[name].costs[mode] for name in (summary.challenger, summary.reference)]
    challenger, reference = (cost.estimate if cost else 0.0 for cost in costs)
    low, estimate, high = paid.requests
    middle = estimate or 10_000
    requests = np.geomspace(max(1, middle / 100), middle * 100, 200)
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(requests, reference * requests, color=_BLUE, linewidth=2, label=summary.reference)
    axes.plot(
        requests, paid.fixed_cost_usd + challenger * requests, color=_ORANGE, linewidth=2, label=summary.challenger
    )
    if estimate:
        axes.axvline(estimate, color=_GREY, linestyle="--", linewidth=1)
        axes.axvspan(low or estimate, high or requests[-1], color=_GREY, alpha=0.15, linewidth=0)
        label = f" {estimate:,.0f} requests" if high else f" {estimate:,.0f} requests, if ever"
        axes.annotate(label, (estimate, reference * estimate), textcoords="offset points", xytext=(6, -14))
    axes.set(xscale="log", yscale="log", xlabel="requests in the first month", ylabel="US dollars, including training")
    axes.xaxis.set_major_formatter("{x:,.0f}")  # the default labels of a logarithmic axis are formulas
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return _url(figure)


@_plain
def confusion(comparison: Comparison, answers: Sequence[ScoredAnswer], arm: str) -> str | None:
    """Plot the confusion matrix of an arm in the last pass; None without labels, or with more than MAX_LABELS."""
    scorer = comparison.scorer.chosen.scorer if isinstance(comparison.scorer, AutoScorer) else comparison.scorer
    if not isinstance(scorer, LabelScorer) or len(scorer.labels_by_casefold) > MAX_LABELS:
        return None
    labels = [*scorer.labels_by_casefold.values(), _NO_LABEL]
    last = answers[-1].pass_
    counts = np.zeros((len(labels) - 1, len(labels)), int)
    for answer in answers:
        expected = scorer.labels_by_casefold.get(comparison.items[answer.item].expected.strip().casefold())
        if answer.arm == arm and answer.pass_ == last and expected:
            counts[labels.index(expected), labels.index(scorer.find_label(answer.text) or _NO_LABEL)] += 1
    figure = Figure(figsize=(2.5 + 0.5 * len(labels), 1.8 + 0.42 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues", aspect="auto")
    for (down, across), count in np.ndenumerate(counts):
        if count:
            axes.text(across, down, count, ha="center", va="center", color="w" if count > counts.max() / 2 else "k")
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels) - 1), labels[:-1])
    axes.set(xlabel="answered", ylabel="expected", title=arm)
    return _url(figure)


def _url(figure: Figure) -> str:
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()}"
