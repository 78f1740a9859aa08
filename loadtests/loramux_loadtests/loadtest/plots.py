"""Plots of the HTML report, as SVG without links."""

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from loramux_loadtests.loadtest.report import RunReport
from loramux_loadtests.loadtest.rows import RequestRow, measured_seconds

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, distinguishable with colour blindness."""
MAX_POINTS = 3000
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
DrawAxes = Callable[[Axes], None]


def render_svg(draw: DrawAxes) -> str:
    """Render a plot as an SVG element."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def distribution(reports: Sequence[RunReport], measure: str, label: str) -> str:
    """Plot the cumulative distribution of a measure, one line per server."""

    def draw(axes: Axes) -> None:
        for number, each in enumerate(reports):
            values = np.sort(measured_seconds(each.rows, measure))
            if len(values):
                shares = np.arange(1, len(values) + 1) / len(values)
                axes.step(
                    _downsample(values), _downsample(shares), where="post", label=_label(each), color=_colour(number)
                )
        axes.set(xlabel=f"{label}, seconds", ylabel="share of requests", ylim=(0, 1.02))
        axes.set_xlim(left=0)
        _legend(axes, len(reports))

    return render_svg(draw)


def over_time(reports: Sequence[RunReport], measure: str, label: str) -> str:
    """Plot a measure of each request at its scheduled time; failed requests are crosses on the axis."""

    def draw(axes: Axes) -> None:
        for number, each in enumerate(reports):
            points = [
                (row.scheduled, value)
                for row in each.rows
                if _succeeded(row) and (value := row.seconds(measure)) is not None
            ]
            x, y = _downsample(np.array(points).reshape(-1, 2)).T
            axes.scatter(x, y, s=9, alpha=0.55, linewidths=0, label=_label(each), color=_colour(number))
            failed = _downsample(np.array([row.scheduled for row in each.rows if not _succeeded(row)]))
            if len(failed):
                axes.scatter(
                    failed,
                    np.zeros(len(failed)),
                    marker="x",
                    s=28,
                    color=_colour(number),
                    label=f"{_label(each)}, failed",
                )
        axes.set(xlabel="scheduled, seconds after the start of the load", ylabel=f"{label}, seconds")
        axes.set_ylim(bottom=0)
        _legend(axes, 2)

    return render_svg(draw)


def in_flight(reports: Sequence[RunReport]) -> str:
    """Plot the requests in flight: their number keeps growing if a server can't keep up."""

    def draw(axes: Axes) -> None:
        for number, each in enumerate(reports):
            times = np.array([row.sent for row in each.rows] + [row.last for row in each.rows])
            changes = np.repeat([1, -1], len(each.rows))
            order = np.argsort(times, kind="stable")
            axes.step(
                _downsample(times[order]),
                _downsample(np.cumsum(changes[order])),
                where="post",
                label=_label(each),
                color=_colour(number),
            )
        axes.set(xlabel="seconds after the start of the load", ylabel="requests in flight")
        axes.set_ylim(bottom=0)
        _legend(axes, len(reports))

    return render_svg(draw)


def by_route(reports: Sequence[RunReport], measure: str, label: str) -> str:
    """Plot the median of each group with its interval, one marker per server."""
    names = list(dict.fromkeys(name for each in reports for name in each.shown))

    def draw(axes: Axes) -> None:
        for number, each in enumerate(reports):
            points = [
                (names.index(name), summary.times[measure]["p50"])
                for name, summary in each.shown.items()
                if measure in summary.times
            ]
            rows = np.array([row for row, _ in points]) + (number - (len(reports) - 1) / 2) * 0.2
            low, middle, high = np.array([interval for _, interval in points]).reshape(-1, 3).T
            ends = np.stack([middle - _finite(low, middle), _finite(high, middle) - middle])
            axes.errorbar(middle, rows, xerr=ends, fmt="o", capsize=3, label=_label(each), color=_colour(number))
        axes.set(
            xlabel=f"median {label} with its 95 % interval, seconds",
            yticks=range(len(names)),
            ylim=(len(names) - 0.5, -0.5),
        )
        axes.set_yticklabels([_truncate(name) for name in names])
        axes.set_xlim(left=0)
        _legend(axes, len(reports))

    return render_svg(draw)


def _succeeded(row: RequestRow) -> bool:
    return row.error is None


def _downsample(values: Values) -> Values:
    """At most MAX_POINTS of the values, the first and the last among them."""
    if len(values) <= MAX_POINTS:
        return values
    return np.asarray(values[np.linspace(0, len(values) - 1, MAX_POINTS).astype(int)])


def _finite(ends: Values, otherwise: Values) -> Values:
    return np.where(np.isfinite(ends), ends, otherwise)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _truncate(text: str, max_length: int = 32) -> str:
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def _label(report: RunReport) -> str:
    # Matplotlib omits labels from the legend that begin with an underscore.
    return "\u200b" + _truncate(report.run.target)


def _legend(axes: Axes, entries: int) -> None:
    if entries > 1:
        axes.legend(fontsize=9)
