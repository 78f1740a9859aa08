"""Grafana panels and dashboards as plain values, and their JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

SCHEMA_VERSION = 39
"""The schema of Grafana 10.4; later versions migrate it."""
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the legend of its series, in which `{{label}}` stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A time series, or (kind `stat`) the current value of each series; `width` is in COLUMNS."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str
    """Grafana's name of the unit: s, reqps, percentunit, currencyUSD or short."""
    width: int = 8
    kind: str = "timeseries"
    height: int = 8

    def to_json(self, number: int, x: int, y: int) -> Json:
        """Return the panel's JSON at this grid position."""
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
class PanelRow:
    """Panels under one heading, wrapped into lines of COLUMNS."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `uid` is part of its URL and must not change."""

    uid: str
    title: str
    description: str
    rows: Sequence[PanelRow]
    tags: Sequence[str] = field(default=("loramux",))

    def to_json(self) -> Json:
        """Return the JSON for Grafana's provisioning."""
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
    """Return the expression of a counter's increase per second."""
    return f"rate({_selected(metric, matchers)}[$__rate_interval])"


def increase(metric: str, matchers: str = "") -> str:
    """Return the expression of a counter's increase over the selected time range."""
    return f"increase({_selected(metric, matchers)}[$__range])"


def total(expr: str, *by: str) -> str:
    """Return the expression of the sum by these labels."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def top(count: int, expr: str) -> str:
    """Return the expression of the `count` greatest values."""
    return f"topk({count}, {expr})"


def ratio(part: str, whole: str, on: str = "") -> str:
    """Return the expression of `part` / `whole` where `whole` > 0; `on` is the vector matching clause."""
    return f"{part} / {on}{on and ' '}({whole} > 0)"


def quantiles(histogram: str, *by: str, matchers: str = "", of: Sequence[float] = (0.5, 0.95, 0.99)) -> list[Query]:
    """Return queries of quantiles of a histogram."""
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
    "stat": {},
}
_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "none",
        "graphMode": "none",
    },
}
