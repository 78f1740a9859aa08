"""What a load test found: a table for people, a document for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loramux_adapters.evaluation.statistics import Interval
from loramux_loadtests.loadtest.goals import parse_goal
from loramux_loadtests.loadtest.prices import PriceList
from loramux_loadtests.loadtest.rows import Row
from loramux_loadtests.loadtest.session import Run
from loramux_loadtests.loadtest.summary import (
    ClientHealth,
    Conditions,
    Summary,
    Window,
    by_group,
    by_route,
    client_health,
    drift,
    of_load,
    windows,
)
from loramux_loadtests.loadtest.sweep import Sweep
from loramux_loadtests.loadtest.vllm_keys import vllm_result
from loramux_loadtests.report import describe_machine, escaped, rows_as_table

ROUTES_SHOWN = 12
"""With more routes, a table shows them together; the JSON has each."""

DEFINITIONS = {
    "rate": "answers a second, from the load's beginning until its last answer, or its last request if that came "
    "later: how long was waited for those that failed does not count",
    "goodput": "answers a second that met each limit of the goal's times",
    "TTFT": "from sending a request until its first piece with text in it",
    "TPOT": "time per output token: (end - first piece) / (output tokens - 1)",
    "latency": "from sending a request until its end, which is its last piece or the end token after it",
    "scheduled": "the same, but from the moment for which the request was planned: what a user waits who does not wait "
    "for the client",
    "intervals": "95 %, by order statistics: no assumption about the distribution, but as if requests were "
    "independent: in a queue they are not, and the true interval is wider; an end for which there are too few requests "
    "is left open",
    "cold": "the adapter had not been asked for before, or was not among the last ones, as many as the server has "
    "places for in host memory: it may have had to be loaded",
    "errors": "a request without a whole answer; `abandoned` ones were still under way when the load ended",
}
COLUMNS = (
    "server", "route", "requests", "errors", "rate /s", "goodput /s", "output tok/s",
    "TTFT p50 ms", "TTFT p95 ms", "TTFT p99 ms", "TPOT p50 ms", "TPOT p95 ms", "latency p50 s", "latency p95 s",
    "scheduled TTFT p95 ms", "cost USD",
)  # fmt: skip
BRIEF_COLUMNS = (
    "route", "requests", "failed", "rate (good) /s", "tok/s", "TTFT ms p50/p95", "TPOT ms p50/p95", "latency s p50/p95",
)  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """One run, summed up."""

    run: Run
    rows: Sequence[Row]
    conditions: Conditions
    groups: Mapping[str, Summary]
    routes: Mapping[str, Summary]
    client: ClientHealth
    windows: Sequence[Window]
    missed: Sequence[str]
    machine_usd: float | None

    @property
    def total(self) -> Summary:
        """All routes together."""
        return self.groups["all"]

    @property
    def shown(self) -> dict[str, Summary]:
        """What a table shows: the groups, and the routes if they are few."""
        few = 1 < len(self.routes) <= ROUTES_SHOWN
        base = {
            name: summary
            for name, summary in self.routes.items()
            if few or (name == "base" and self.routes.keys() != {name})
        }
        return {**self.groups, **base}

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the figures."""
        found = [self.run.ended_early and f"the load ended early: {self.run.ended_early}", self.client.warning]
        if shorter := self.total.shorter:
            found.append(f"{shorter} answers were shorter than asked for: this server may not know ignore_eos")
        if self.total.completed and not self.total.output_tokens:
            found.append("the server does not count tokens (no usage in its streams)")
        return [words for words in found if words]


def find(run: Run, prices: PriceList | None = None) -> Findings:
    """Sum a run up that has at least one request of the load."""
    rows = of_load(run.rows)
    goal = parse_goal(run.scenario.goal) if run.scenario.goal else None
    conditions = Conditions(goal, prices, fixed_lengths=not run.scenario.output.natural)
    groups = by_group(rows, conditions, run.job_ran)
    return Findings(
        run=run,
        rows=rows,
        conditions=conditions,
        groups=groups,
        routes=by_route(rows, conditions),
        client=client_health(rows, run.client_busy),
        windows=windows(rows, run.scenario.window),
        missed=goal.missed(rows) if goal else [],
        machine_usd=prices.machine_usd(groups["all"].seconds) if prices else None,
    )


def document(found: Sequence[Findings], sweeps: Sequence[Sweep] = ()) -> dict[str, Any]:
    """Everything, for programs. Intervals are [low, estimate, high], an open end null."""
    return {
        "machine": describe_machine(),
        "definitions": DEFINITIONS,
        "runs": [_one(each) for each in found],
        "sweeps": [asdict(sweep) for sweep in sweeps],
    }


def _one(found: Findings) -> dict[str, Any]:
    return {
        "server": found.run.target,
        "scenario": found.run.scenario.model_dump(mode="json", exclude_unset=True),
        "seed": found.run.seed,
        "vllm": vllm_result(found.rows, found.total),
        "groups": {name: _summary(summary) for name, summary in found.groups.items()},
        "routes": {name: _summary(summary) for name, summary in found.routes.items()},
        "windows": [asdict(window) for window in found.windows],
        "drift": drift(found.windows),
        "client": asdict(found.client),
        "machine_usd": found.machine_usd,
        "goal": found.run.scenario.goal,
        "missed": list(found.missed),
        "notes": found.run.notes,
        "warnings": found.warnings,
    }


def _summary(summary: Summary) -> dict[str, Any]:
    times = {
        measure: {name: _ends(interval) for name, interval in quantiles.items()} | {"mean": summary.means[measure]}
        for measure, quantiles in summary.times.items()
    }
    rates = {"rate": summary.rate, "goodput": summary.goodput, "output_rate": summary.output_rate}
    return asdict(summary) | rates | {"times": times}


def _ends(interval: Interval) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in interval]


def table(found: Sequence[Findings]) -> list[list[str]]:
    """The table's rows, the names of its columns first: those of COLUMNS in which there is anything."""
    rows = [[each.run.target, name, *_cells(summary)] for each in found for name, summary in each.shown.items()]
    columns = [column for column in zip(COLUMNS, *rows, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*columns, strict=True)]


def _cells(summary: Summary) -> list[str]:
    failed = ", ".join(f"{count} {kind}" for kind, count in summary.errors.items()) or "0"
    return [
        str(summary.requests),
        failed,
        f"{summary.rate:.2f}",
        "" if summary.goodput is None else f"{summary.goodput:.2f}",
        f"{summary.output_rate:.1f}",
        *(_time(summary, "ttft", name, 1000) for name in ("p50", "p95", "p99")),
        *(_time(summary, "tpot", name, 1000) for name in ("p50", "p95")),
        *(_time(summary, "latency", name, 1) for name in ("p50", "p95")),
        _time(summary, "ttft_scheduled", "p95", 1000),
        "" if summary.usd is None else f"{summary.usd:.3g}",
    ]


def brief(name: str, summary: Summary) -> list[str]:
    """The cells under BRIEF_COLUMNS: medians and 95th percentiles, without intervals."""

    def both(measure: str, factor: float) -> str:
        times = summary.times.get(measure)
        return " / ".join(_number(times[q].estimate * factor) for q in ("p50", "p95")) if times else ""

    return [
        name,
        str(summary.requests),
        str(summary.failed),
        f"{summary.rate:.2f}" if summary.goodput is None else f"{summary.rate:.2f} ({summary.goodput:.2f})",
        f"{summary.output_rate:.0f}",
        both("ttft", 1000),
        both("tpot", 1000),
        both("latency", 1),
    ]


def _time(summary: Summary, measure: str, quantile: str, factor: float) -> str:
    interval = summary.times.get(measure, {}).get(quantile)
    if interval is None:
        return ""
    low, estimate, high = (_number(value * factor) for value in interval)
    return f"{estimate} [{low}, {high}]"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "…"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def facts(found: Findings) -> list[str]:
    """Lines about one run that go below the table."""
    health = found.client
    busy = "" if health.busy is None else f", {health.busy:.0%} of a core"
    lines = [
        f"{found.run.target}: client lag p50 {health.lag_p50 * 1000:.1f} ms, p99 {health.lag_p99 * 1000:.1f} ms, "
        f"at most {health.lag_max * 1000:.1f} ms{busy}",
    ]
    total = found.total
    lines.append(
        f"{found.run.target}: {total.input_tokens} input tokens, of which {total.cached_tokens} were cached, "
        f"{total.output_tokens} output tokens"
    )
    if (ratio := drift(found.windows)) is not None:
        length = found.run.scenario.window
        lines.append(f"{found.run.target}: p50 TTFT of the last {length:g} s / the first {length:g} s: {ratio:.2f}")
    if found.machine_usd:
        tokens = found.total.output_tokens or 1
        lines.append(
            f"{found.run.target}: the machine cost ${found.machine_usd:.3g} in this time, "
            f"${found.machine_usd / tokens * 1e6:.3g} for a million output tokens"
        )
    if found.run.scenario.goal:
        words = "missed: " + "; ".join(found.missed) if found.missed else "met"
        lines.append(f"{found.run.target}: goal {found.run.scenario.goal}: {words}")
    lines += [f"{found.run.target}: {words}" for words in found.run.notes]
    return [*lines, *(f"{found.run.target}: WARNING: {words}" for words in found.warnings)]


def markdown(found: Sequence[Findings], sweeps: Sequence[Sweep] = ()) -> str:
    """The report as a page of Markdown."""
    scenario = found[0].run.scenario
    arguments = scenario.model_dump(mode="json", exclude_unset=True, exclude={"title", "about"})
    lines = [f"# {escaped(scenario.title)}", "", escaped(scenario.about.strip()), ""]
    columns, *rows = table(found)
    lines += rows_as_table(columns, [[escaped(cell) for cell in row] for row in rows])
    lines += ["", *(f"- {escaped(fact)}" for each in found for fact in facts(each))]
    lines += [f"- {escaped(sweep.told)}" for sweep in sweeps]
    lines += ["", "## Definitions", "", *(f"- **{word}**: {meaning}" for word, meaning in DEFINITIONS.items())]
    lines += ["", "## Scenario", "", f"- seed: {found[0].run.seed}"]
    lines += [f"- {name}: {escaped(json.dumps(value))}" for name, value in arguments.items()]
    lines += ["", "## Machine", "", *(f"- {name}: {value}" for name, value in describe_machine().items())]
    return "\n".join(lines) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a document so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
