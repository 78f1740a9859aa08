"""Reports of benchmarks: metrics with their goals, as JSON and Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramux_adapters.evaluation.statistics import Spread
from loramux_loadtests.machine import describe_machine
from loramux_loadtests.report_tables import markdown_table


@dataclass(frozen=True)
class Metric:
    """A number that was measured repeatedly, and the goal for its median."""

    name: str
    spread: Spread
    unit: str = "ratio"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def goal_met(self) -> bool:
        """Whether the median meets the goal; True without a goal."""
        low = self.at_least is None or self.spread.median >= self.at_least
        return low and (self.at_most is None or self.spread.median <= self.at_most)

    @property
    def goal(self) -> str:
        """The goal for people; empty without one."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"


@dataclass(frozen=True)
class BenchmarkReport:
    """The results of one benchmark."""

    title: str
    explanation: str
    metrics: Sequence[Metric]
    arguments: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    """The individual measurements, for the JSON only."""
    details: Sequence[str] = ()
    """Lines of Markdown below the table."""

    @property
    def goals_met(self) -> bool:
        """Whether every goal was met."""
        return all(metric.goal_met for metric in self.metrics)


def write_report(report: BenchmarkReport, folder: Path, name: str) -> None:
    """Write `name`.json and `name`.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    metrics = [
        {
            "what": metric.name,
            **metric.spread._asdict(),
            "unit": metric.unit,
            "goal": metric.goal,
            "met": metric.goal_met,
        }
        for metric in report.metrics
    ]
    document = {"machine": machine, "arguments": report.arguments, "findings": metrics, "rounds": report.rounds}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (folder / f"{name}.md").write_text(report_markdown(report, machine))


def report_markdown(report: BenchmarkReport, machine: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [f"# {report.title}", "", report.explanation, "", metric_table(report)]
    lines += ["", *report.details] if report.details else []
    for title, facts in (("Arguments", report.arguments), ("Machine", machine)):
        lines += ["", f"## {title}", "", *(f"- {name}: {value}" for name, value in facts.items())]
    return "\n".join(lines) + "\n"


def metric_table(report: BenchmarkReport) -> str:
    """Return the metrics as a Markdown table."""
    rows = []
    for metric in report.metrics:
        numbers = [f"{value:.3f}" for value in metric.spread]
        if metric.spread.minimum == metric.spread.maximum:
            numbers[1:] = "", ""  # measured once: equal ends would claim that nothing varies
        met = ("yes" if metric.goal_met else "**no**") if metric.goal else ""
        rows.append([metric.name, metric.unit, *numbers, metric.goal, met])
    return "\n".join(markdown_table(["measured", "unit", "median", "minimum", "maximum", "goal", "met"], rows))
