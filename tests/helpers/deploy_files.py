"""Reads the committed dashboards and rules of deploy/."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
VARIABLES = {"$__rate_interval": "10s", "$__range": "5m"}
"""Values for the variables that Grafana replaces in expressions."""


@dataclass(frozen=True)
class PanelQuery:
    """A query of a panel."""

    dashboard: str
    panel: str
    expr: str
    legend: str

    @property
    def where(self) -> str:
        """A description for failure messages."""
        return f"{self.dashboard}, {self.panel}: {self.expr}"

    @property
    def labels(self) -> set[str]:
        """The labels in its legend."""
        return set(re.findall(r"\{\{(\w+)\}\}", self.legend))


def dashboards() -> dict[str, Any]:
    """Return the committed dashboards by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana" / "dashboards").iterdir())}


def panel_queries() -> list[PanelQuery]:
    """Return every query of every panel, as Grafana sends it."""
    return [
        PanelQuery(dashboard["title"], panel["title"], expand_variables(target["expr"]), target["legendFormat"])
        for dashboard in dashboards().values()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of a file."""
    groups = yaml.safe_load((PROMETHEUS / "rules" / f"{name}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expand_variables(expr: str) -> str:
    """Return the expression with Grafana's variables replaced."""
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr
