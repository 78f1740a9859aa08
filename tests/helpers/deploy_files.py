"""What is committed in deploy/: dashboards and rules, as tests read them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
VARIABLES = {"$__rate_interval": "10s", "$__range": "5m"}
"""What Grafana puts into an expression before it sends it."""


@dataclass(frozen=True)
class PanelQuery:
    """One query of one panel."""

    dashboard: str
    panel: str
    expr: str
    legend: str

    @property
    def where(self) -> str:
        """Words for a failure."""
        return f"{self.dashboard}, {self.panel}: {self.expr}"

    @property
    def labels(self) -> set[str]:
        """The labels that its legend shows."""
        return set(re.findall(r"\{\{(\w+)\}\}", self.legend))


def dashboards() -> dict[str, Any]:
    """The committed dashboards by the names of their files."""
    return {path.name: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana" / "dashboards").iterdir())}


def panel_queries() -> list[PanelQuery]:
    """Every query of every panel, as Grafana would send it."""
    return [
        PanelQuery(dashboard["title"], panel["title"], sent(target["expr"]), target["legendFormat"])
        for dashboard in dashboards().values()
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of one file."""
    groups = yaml.safe_load((PROMETHEUS / "rules" / f"{name}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def sent(expr: str) -> str:
    """An expression with Grafana's variables replaced."""
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr
