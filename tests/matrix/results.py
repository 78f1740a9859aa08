"""The results of the matrix: a page for people and a file for `loramux doctor`."""

import importlib.metadata
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from loramux_server.machine import this_machine
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "architectures.md"
DATA = REPOSITORY / "server" / "loramux_server" / "architectures.json"
LIBRARIES = ("vllm", "transformers", "peft", "torch")


@dataclass(frozen=True)
class Result:
    """The differences of a route's log-probabilities from PEFT's in float32, in nats."""

    worst: float
    mean: float
    peft_mean: float = 0.0
    """The mean for PEFT in bfloat16, if the server's type is bfloat16."""


@dataclass
class Results:
    """The results of one run, as far as it got."""

    rows: dict[str, dict[str, dict[str, Result]]] = field(default_factory=lambda: defaultdict(dict))
    """By architecture, type and route."""
    shapes: list[str] = field(default_factory=list)
    """The architectures whose descriptions are what PEFT writes."""
    unserved: dict[str, list[str]] = field(default_factory=dict)
    """The last names of the modules to which vLLM applies no adapters on this machine, by architecture."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why vLLM serves no adapters of an architecture."""
    not_shown: dict[str, str] = field(default_factory=dict)
    """Why an architecture could not be described on this machine."""

    def add(self, architecture: str, dtype: str, route: str, result: Result) -> None:
        """Add the result of one route."""
        self.rows[architecture].setdefault(dtype, {})[route] = result

    def write(self) -> None:
        """Write page and file."""
        DATA.write_text(json.dumps(self.data(), indent=2) + "\n", encoding="utf-8")
        PAGE.write_text("\n".join(self.page()) + "\n", encoding="utf-8")

    def data(self) -> dict[str, Any]:
        """Return the architectures by how they were shown to work, and the versions."""
        shapes = [name for name in self.shapes if name not in self.rows]
        return {
            **_versions(),
            "engine": sorted(self.rows),
            "shapes": shapes,
            "refused": self.refused,
            "not_shown": self.not_shown,
        }

    def page(self) -> Iterator[str]:
        """Yield the lines of the page, in Markdown."""
        data = self.data()
        yield _introduction()
        yield from _engine_table(self.rows, self.unserved)
        yield from (_SHAPES, ", ".join(data["shapes"]) + ".", _REFUSED)
        yield from _by_reason(self.refused)
        yield _NOT_SHOWN
        yield from _by_reason(self.not_shown)


_INTRODUCTION = """<!-- Written by `make matrix`. -->
# Architectures

loramux asks the base itself which modules an adapter can change, so it has no list of architectures. This page says
which ones were shown to be right, and how. {measured}

## With the engine

For each architecture, a small base of random weights and adapters that PEFT made were served over HTTP, each route
alone and all in one batch with the base. The log-probability of each token, of prompts and answers, was compared with
transformers and PEFT in float32. The columns are differences in nats: of the worst token in float32 (at most 2e-3), and
the mean of the worst route in bfloat16, next to that of PEFT itself in bfloat16 (at most 1.5 times as much).

"All-linear" adapters are on all linear modules that vLLM applies adapters to, "patterns" ones have ranks and alphas of
their own by suffixes and expressions, with rsLoRA, and "one-layer" ones are on the last layer only.
"""
_SHAPES = """
## Shapes only

The names and shapes of these architectures' modules are those that PEFT writes with `all-linear`; no engine was
started.
"""
_REFUSED = """
## Base only

These answer as a base, and adapters of them are refused with this reason.
"""
_NOT_SHOWN = """
## Not shown

Bases with transformers' default config could not be built on this machine. A real one may work: try
`loramux doctor --base NAME`.
"""


def _introduction() -> str:
    machine = this_machine(Path.cwd())
    versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
    return _INTRODUCTION.format(measured=f"Measured with {versions} on {machine.cores} cores of {machine.cpu_model}.")


def _engine_table(
    rows: Mapping[str, Mapping[str, Mapping[str, Result]]], unserved: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    yield "| architecture | adapters | refused on this machine | float32 | bfloat16 | PEFT in bfloat16 |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for architecture, types in sorted(rows.items()):
        worst = max(result.worst for result in types["float32"].values())
        rounded = max(types["bfloat16"].values(), key=lambda result: result.mean)
        routes = ", ".join(route for route in types["float32"] if route != "base") or "none: base only"
        numbers = f"{worst:.1e} | {rounded.mean:.1e} | {rounded.peft_mean:.1e}"
        yield f"| {architecture} | {routes} | {', '.join(unserved.get(architecture, ()))} | {numbers} |"


def _by_reason(reasons: Mapping[str, str]) -> Iterator[str]:
    """Yield table lines with the architectures that share a reason."""
    yield "| architectures | reason |"
    yield "| --- | --- |"

    def reason_of(name: str) -> str:
        return reasons[name].replace(f" of {name}", "").replace(name, "it")

    for reason, names in groupby(sorted(reasons, key=lambda name: (reason_of(name), name)), key=reason_of):
        yield f"| {', '.join(names)} | {_cell(reason)} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:200]


def _versions() -> dict[str, str]:
    return dict(_versions_of(LIBRARIES))


def _versions_of(libraries: Iterable[str]) -> Iterator[tuple[str, str]]:
    distributions = importlib.metadata.packages_distributions()
    for library in libraries:  # vLLM's builds have several names
        yield library, importlib.metadata.version(distributions.get(library, [library])[0])
