"""From scored answers to a verdict: each arm's quality with its interval, the paired difference, and what it took."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel

from loramux_loadtests.scorers import Scores
from loramux_loadtests.statistics import Interval, bootstrap_interval

BEGIN, END = "<!-- results: written by loramux_loadtests.compare -->", "<!-- end of results -->"


class Row(NamedTuple):
    """One answer of one arm to one item."""

    arm: str
    item: int
    scores: Scores
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    text: str


class ArmResult(BaseModel):
    """One arm: 95 % intervals of each score's mean, and the mean tokens of a request."""

    scores: dict[str, Interval]
    input_tokens: float
    cached_tokens: float
    output_tokens: float


class Comparison(BaseModel):
    """All arms on the same items. `difference` is challenger minus rival, item by item, in the score that counts."""

    adapter: str
    base: str
    items: int
    score: str
    arms: dict[str, ArmResult]
    challenger: str
    rival: str
    difference: Interval

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown"]:
        """What the interval of the difference allows to say of the challenger."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "no difference shown"


def summarize(adapter: str, base: str, rows: Iterable[Row], *, challenger: str, rival: str) -> Comparison:
    """Put the rows of all arms together; every arm must have answered every item (ValueError if not)."""
    arms: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.item):
        arms.setdefault(row.arm, []).append(row)
    items = [row.item for row in arms[rival]]
    if any([row.item for row in answers] != items for answers in arms.values()):
        raise ValueError("the arms did not answer the same items")
    score = next(iter(arms[rival][0].scores))
    pairs = zip(arms[challenger], arms[rival], strict=True)
    return Comparison(
        adapter=adapter,
        base=base,
        items=len(items),
        score=score,
        arms={name: _arm_result(answers) for name, answers in sorted(arms.items(), reverse=True)},
        challenger=challenger,
        rival=rival,
        difference=bootstrap_interval([mine.scores[score] - theirs.scores[score] for mine, theirs in pairs]),
    )


def _arm_result(rows: Sequence[Row]) -> ArmResult:
    return ArmResult(
        scores={name: bootstrap_interval([row.scores[name] for row in rows]) for name in rows[0].scores},
        input_tokens=float(np.mean([row.input_tokens for row in rows])),
        cached_tokens=float(np.mean([row.cached_tokens for row in rows])),
        output_tokens=float(np.mean([row.output_tokens for row in rows])),
    )


def table(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    names = list(next(iter(comparison.arms.values())).scores)
    columns = ["", *names, "prompt tokens", "of these cached", "output tokens"]
    lines = [
        f"`{comparison.adapter}` on {comparison.base}, {comparison.items} held-out items, 95 % intervals in brackets:",
        "",
        _cells(columns),
        _cells(["---"] * len(columns)),
        *(_cells([name, *_arm_cells(arm, names)]) for name, arm in comparison.arms.items()),
        "",
        f"By “{comparison.score}”, {comparison.challenger} against {comparison.rival}: **{comparison.verdict}**,"
        f" by a paired difference of {_points(comparison.difference)}.",
    ]
    return "\n".join(lines)


def write_table(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Rewrite what stands between the result marks of a Markdown file; ValueError when it has no such marks."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path.name} has no place for results: {BEGIN} … {END}")
    tables = "\n\n".join(table(comparison) for comparison in comparisons)
    path.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")


def _arm_cells(arm: ArmResult, names: Sequence[str]) -> list[str]:
    tokens = (arm.input_tokens, arm.cached_tokens, arm.output_tokens)
    return [_percent(arm.scores[name]) for name in names] + [f"{count:.0f}" for count in tokens]


def _percent(share: Interval) -> str:
    return f"{share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}]".replace("%", " %")


def _points(difference: Interval) -> str:
    low, estimate, high = (f"{100 * value:+.1f}" for value in difference)
    return f"{estimate} points [{low}, {high}]"


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
