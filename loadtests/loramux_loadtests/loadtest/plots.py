"""Pictures for the page, as SVG text without a link to anything."""

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from loramux_loadtests.loadtest.report import Findings
from loramux_loadtests.loadtest.rows import Row, measured

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which people who see few colours tell apart."""
POINTS_AT_MOST = 3000
SIZE = (7.2, 3.4)
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loramux",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.parse_math": False,
}

Values = NDArray[np.float64]
Draw = Callable[[Axes], None]


def drawn(draw: Draw) -> str:
    """The SVG element of a plot."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def distribution(found: Sequence[Findings], measure: str, label: str) -> str:
    """How many of the requests had at most so long a time, a line a server."""

    def draw(axes: Axes) -> None:
        for number, each in enumerate(found):
            values = np.sort(measured(each.rows, measure))
            if len(values):
                shares = np.arange(1, len(values) + 1) / len(values)
                axes.step(_thin(values), _thin(shares), where="post", label=_label(each), color=_colour(number))
        axes.set(xlabel=f"{label}, seconds", ylabel="share of requests", ylim=(0, 1.02))
        axes.set_xlim(left=0)
        _legend(axes, len(found))

    return drawn(draw)


def over_time(found: Sequence[Findings], measure: str, label: str) -> str:
    """Each request's time at its scheduled moment; failed ones as crosses on the axis."""

    def draw(axes: Axes) -> None:
        for number, each in enumerate(found):
            points = [
                (row.scheduled, value)
                for row in each.rows
                if _fine(row) and (value := row.measured(measure)) is not None
            ]
            x, y = _thin(np.array(points).reshape(-1, 2)).T
            axes.scatter(x, y, s=9, alpha=0.55, linewidths=0, label=_label(each), color=_colour(number))
            failed = _thin(np.array([row.scheduled for row in each.rows if not _fine(row)]))
            if len(failed):
                axes.scatter(
                    failed,
                    np.zeros(len(failed)),
                    marker="x",
                    s=28,
                    color=_colour(number),
                    label=f"{_label(each)}, failed",
                )
        axes.set(xlabel="scheduled, seconds after the load began", ylabel=f"{label}, seconds")
        axes.set_ylim(bottom=0)
        _legend(axes, 2)

    return drawn(draw)


def in_flight(found: Sequence[Findings]) -> str:
    """Requests under way: a server that can't keep up has ever more of them."""

    def draw(axes: Axes) -> None:
        for number, each in enumerate(found):
            moments = np.array([row.sent for row in each.rows] + [row.last for row in each.rows])
            changes = np.repeat([1, -1], len(each.rows))
            order = np.argsort(moments, kind="stable")
            axes.step(
                _thin(moments[order]),
                _thin(np.cumsum(changes[order])),
                where="post",
                label=_label(each),
                color=_colour(number),
            )
        axes.set(xlabel="seconds after the load began", ylabel="requests in flight")
        axes.set_ylim(bottom=0)
        _legend(axes, len(found))

    return drawn(draw)


def by_route(found: Sequence[Findings], measure: str, label: str) -> str:
    """The median of each group with its interval, servers side by side."""
    names = list(dict.fromkeys(name for each in found for name in each.shown))

    def draw(axes: Axes) -> None:
        for number, each in enumerate(found):
            at = [
                (names.index(name), summary.times[measure]["p50"])
                for name, summary in each.shown.items()
                if measure in summary.times
            ]
            places = np.array([place for place, _ in at]) + (number - (len(found) - 1) / 2) * 0.2
            low, middle, high = np.array([interval for _, interval in at]).reshape(-1, 3).T
            ends = np.stack([middle - _finite(low, middle), _finite(high, middle) - middle])
            axes.errorbar(middle, places, xerr=ends, fmt="o", capsize=3, label=_label(each), color=_colour(number))
        axes.set(
            xlabel=f"median {label} with its 95 % interval, seconds",
            yticks=range(len(names)),
            ylim=(len(names) - 0.5, -0.5),
        )
        axes.set_yticklabels([_short(name) for name in names])
        axes.set_xlim(left=0)
        _legend(axes, len(found))

    return drawn(draw)


def _fine(row: Row) -> bool:
    return row.error is None


def _thin(values: Values) -> Values:
    """At most POINTS_AT_MOST of the values, the first and the last among them."""
    if len(values) <= POINTS_AT_MOST:
        return values
    return np.asarray(values[np.linspace(0, len(values) - 1, POINTS_AT_MOST).astype(int)])


def _finite(ends: Values, otherwise: Values) -> Values:
    return np.where(np.isfinite(ends), ends, otherwise)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _label(found: Findings) -> str:
    # Matplotlib leaves a label out of the legend that begins with an underscore.
    return "\u200b" + _short(found.run.target)


def _legend(axes: Axes, entries: int) -> None:
    if entries > 1:
        axes.legend(fontsize=9)
