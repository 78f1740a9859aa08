"""Grafana's panels as plain values, and the JSON that Grafana makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

SCHEMA_VERSION = 39
"""Grafana 10.4's; later ones read it and bring it up to date."""
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and what its series are called: `{{label}}` stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A diagram over time, or (as `stat`) one big number a series, as it is now; it takes `width` of COLUMNS."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str
    """By Grafana's name for it: s, reqps, percentunit, currencyUSD, short."""
    width: int = 8
    kind: str = "timeseries"
    height: int = 8

    def to_json(self, number: int, x: int, y: int) -> Json:
        """The panel at this place of the grid."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0, **_DEFAULTS[self.kind]}, "overrides": []},
            "options": _OPTIONS[self.kind],
            "targets": [
                {
                    "refId": letter,
                    "datasource": DATASOURCE,
                    "expr": query.expr,
                    "legendFormat": query.legend,
                    "instant": self.kind == "stat",
                }
                for letter, query in zip("ABCDEFGH", self.queries, strict=False)
            ],
        }


@dataclass(frozen=True)
class Row:
    """Panels under one heading; what does not fit beside the others goes below them."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    """A page of Grafana's; `uid` is its address, so it never changes."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    tags: Sequence[str] = field(default=("loramux",))

    def to_json(self) -> Json:
        """The dashboard as Grafana's provisioning reads it."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": list(self.tags),
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [_DATASOURCE_CHOICE]},
            "panels": [panel | {"id": number} for number, panel in enumerate(self._placed(), start=1)],
        }

    def _placed(self) -> Iterator[Json]:
        y = 0
        for row in self.rows:
            yield {"type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": _line(y)}
            x, y, height = 0, y + 1, 0
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, height = 0, y + height, 0
                yield panel.to_json(0, x, y)
                x, height = x + panel.width, max(height, panel.height)
            y += height


def rate(metric: str, matchers: str = "") -> str:
    """How fast a counter rises, a second."""
    return f"rate({_selected(metric, matchers)}[$__rate_interval])"


def increase(metric: str, matchers: str = "") -> str:
    """By how much a counter rose over the time that is shown."""
    return f"increase({_selected(metric, matchers)}[$__range])"


def total(expr: str, *by: str) -> str:
    """The sum over all labels but these."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def top(count: int, expr: str) -> str:
    """The greatest of a vector's values."""
    return f"topk({count}, {expr})"


def ratio(part: str, whole: str, on: str = "") -> str:
    """One over the other, where there is anything to divide by; `on` says how series are matched."""
    return f"{part} / {on}{on and ' '}({whole} > 0)"


def quantiles(histogram: str, *by: str, matchers: str = "", of: Sequence[float] = (0.5, 0.95, 0.99)) -> list[Query]:
    """Quantiles of what a histogram saw."""
    buckets = total(rate(f"{histogram}_bucket", matchers), "le", *by)
    names = " ".join(f"{{{{{label}}}}}" for label in by)
    return [Query(f"histogram_quantile({q}, {buckets})", f"{names} p{q * 100:g}".strip()) for q in of]


def _selected(metric: str, matchers: str) -> str:
    return f"{metric}{{{matchers}}}" if matchers else metric


def _line(y: int) -> Json:
    return {"x": 0, "y": y, "w": COLUMNS, "h": 1}


_DATASOURCE_CHOICE = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
_DEFAULTS: dict[str, Json] = {
    "timeseries": {"custom": {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}},
    "stat": {"color": {"mode": "thresholds"}},
}
_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
    },
}
