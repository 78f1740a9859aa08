"""Simulates all scenarios with all methods, and writes the table to coverage.md."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from benchmarks.command import GOAL_MISSED, OK, RESULTS
from benchmarks.coverage.methods import CHOSEN, FAMILIES, coverage
from benchmarks.coverage.scenarios import SIZES, Scenario, scenarios

EXPERIMENTS = 2000
MIN_COVERAGE, MAX_COVERAGE = 0.93, 0.97
SIMULATION_ERROR = 0.004
"""One standard error of a coverage of 97 % that 2,000 experiments estimate."""
ENOUGH_VARIATION = 18.0
"""Items x variance of the scores, or of the differences, from which coverage is at most MAX_COVERAGE.

Of right and wrong answers it is n p (1 - p). Below, discrete scores leave no interval that never covers less than
MIN_COVERAGE and never more than MAX_COVERAGE.
"""


class Cell(NamedTuple):
    """A method's coverage and mean width in one scenario with one number of items."""

    family: str
    scenario: str
    items: int
    truth: float
    variation: float
    """Items times the variance of a score, or of a difference of two."""
    method: str
    coverage: float
    width: float

    @property
    def is_right(self) -> bool:
        """Whether the coverage is never too low, and not too high where there is enough variation."""
        is_too_high = self.coverage > MAX_COVERAGE + SIMULATION_ERROR
        return self.coverage >= MIN_COVERAGE and not (self.variation >= ENOUGH_VARIATION and is_too_high)


def simulate(
    scenario: Scenario,
    items: int,
    *,
    experiments: int = EXPERIMENTS,
    methods: Iterable[str] | None = None,
) -> Iterator[Cell]:
    """Yield one cell for each of the scenario's methods that is among `methods`, by default all."""
    arms = scenario.draw(np.random.default_rng(items), experiments, items)
    weights = scenario.probabilities(items) if scenario.probabilities else None
    values = arms[0] if len(arms) == 1 else arms[0] - arms[1]
    variation = items * scenario.truth * (1 - scenario.truth) if weights is not None else items * float(values.var())
    for name in [name for name in scenario.methods if methods is None or name in methods]:
        found = coverage(scenario.methods[name](*arms), scenario.truth, scenario.lowest, weights)
        yield Cell(scenario.family, scenario.name, items, scenario.truth, variation, name, *found)


def markdown(cells: list[Cell], experiments: int) -> str:
    """The report: a summary by method, and a table of every cell for each family of data."""
    lines = [
        "# Coverage of 95 % intervals",
        "",
        f"How often the interval contained the truth in {experiments:,} simulated experiments, by "
        "`python -m benchmarks.coverage`. Variation is items x variance, of right and wrong answers n p (1 - p). "
        f"loramux uses “{CHOSEN}”; docs/how-we-measure.md says why. Coverage of shares of one arm is exact.",
        "",
        "| data | method | lines | lowest coverage | lines below 93 % "
        f"| highest with variation >= {ENOUGH_VARIATION:g} | width relative to ours |",
        "| --- |" + " --- |" * 6,
    ]
    by_family = {family: [cell for cell in cells if cell.family == family] for family in FAMILIES}
    for family, own in by_family.items():
        lines += [_summary(family, own, method) for method in FAMILIES[family]]
    for family, own in by_family.items():
        methods = list(FAMILIES[family])
        lines += ["", f"## {family}: coverage, and mean width", ""]
        lines += [
            f"| scenario | n | truth | variation | {' | '.join(methods)} |",
            "| --- |" + " --- |" * (3 + len(methods)),
        ]
        lines += _rows(own)
    return "\n".join(lines) + "\n"


def _summary(family: str, cells: list[Cell], method: str) -> str:
    own = [cell for cell in cells if cell.method == method]
    ours = [cell for cell in cells if cell.method == CHOSEN]
    varied = [cell.coverage for cell in own if cell.variation >= ENOUGH_VARIATION]
    ratio = np.median([cell.width / reference.width for cell, reference in zip(own, ours, strict=True)])
    below = sum(cell.coverage < MIN_COVERAGE for cell in own)
    lowest, highest = min(cell.coverage for cell in own), f"{max(varied):.3f}" if varied else ""
    return f"| {family} | {method} | {len(own)} | {lowest:.3f} | {below} | {highest} | {ratio:.2f} |"


def _rows(cells: list[Cell]) -> Iterator[str]:
    for (scenario, items, truth, variation), group in groupby(cells, lambda cell: cell[1:5]):
        found = " | ".join(f"{cell.coverage:.3f}, {cell.width:.3f}" for cell in group)
        yield f"| {scenario} | {items} | {truth:.3f} | {variation:.2f} | {found} |"


def main(
    experiments: Annotated[int, typer.Option(min=100, help="Simulated experiments per line.")] = EXPERIMENTS,
    results: Annotated[Path, typer.Option(help="Folder for the report.")] = RESULTS,
) -> None:
    """Simulate how often intervals contain the truth. Exit code: 0; 1 if ours is not right everywhere."""
    pairs = [(scenario, items) for scenario in scenarios() for items in SIZES]
    shown = track(pairs, "simulating", console=Console(stderr=True))
    cells = [cell for scenario, items in shown for cell in simulate(scenario, items, experiments=experiments)]
    results.mkdir(parents=True, exist_ok=True)
    report = markdown(cells, experiments)
    (results / "coverage.md").write_text(report, encoding="utf-8")
    Console().print(Markdown(report.partition("\n## ")[0]))
    wrong = [cell for cell in cells if cell.method == CHOSEN and not cell.is_right]
    for cell in wrong:
        Console(stderr=True).print(f"not right: {cell}")
    raise typer.Exit(GOAL_MISSED if wrong else OK)
