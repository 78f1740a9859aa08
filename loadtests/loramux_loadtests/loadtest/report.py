"""Reports of load tests: as a table, Markdown and JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loramux_adapters.evaluation.statistics import Interval
from loramux_adapters.evaluation.token_prices import PriceList
from loramux_loadtests.loadtest.goals import parse_goal, required_requests
from loramux_loadtests.loadtest.rate_trial import MIN_REQUESTS
from loramux_loadtests.loadtest.rows import RequestRow
from loramux_loadtests.loadtest.session import LoadRun
from loramux_loadtests.loadtest.steady_state import measure_steady_state
from loramux_loadtests.loadtest.summary import (
    DURING_JOB,
    ClientHealth,
    GroupSummary,
    SummaryOptions,
    TimeWindow,
    client_health,
    drift,
    split_windows,
    summarize_groups,
    summarize_routes,
    without_warm_up,
)
from loramux_loadtests.loadtest.sweep import SweepResult
from loramux_loadtests.loadtest.vllm_keys import vllm_result
from loramux_loadtests.machine import describe_machine
from loramux_loadtests.report_tables import escape_markdown, markdown_table

MAX_ROUTES_SHOWN = 12
"""With more routes, tables show them together; the JSON has each."""

DEFINITIONS = {
    "rate": "answers per second, from the start of the load until its last answer, or its last request if that was "
    "later: time spent waiting for failed requests does not count",
    "keeping up": "the server answers at least 95 % of the requests of a time in the same time, and the number of "
    "requests in flight does not grow by more than chance explains. The beginning does not count: servers fill first",
    "sustained": "the goal is met and the server keeps up when the rate is run again, for two minutes or longer",
    "goodput": "answers per second that met every time limit of the goal",
    "TTFT": "time to first token: from sending a request until its first chunk with text",
    "TPOT": "time per output token: (end - first chunk) / (output tokens - 1)",
    "latency": "from sending a request until its end: its last chunk, or the end token after it",
    "scheduled": "the same, but from the scheduled time of the request: what a user experiences, without delays of "
    "the client",
    "intervals": "95 %, by order statistics: no assumption about the distribution, but requests are taken to be "
    "independent; in a queue they are not, and the true interval is wider. With too few requests an end is left open",
    "cold": "the adapter was not among those requested last (as many as fit into the server's host memory), so it may "
    "have had to be loaded",
    "errors": "requests without a complete answer; `abandoned` ones were still in flight when the load ended",
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
class RunReport:
    """The report of one run."""

    run: LoadRun
    rows: Sequence[RequestRow]
    groups: Mapping[str, GroupSummary]
    routes: Mapping[str, GroupSummary]
    client: ClientHealth
    windows: Sequence[TimeWindow]
    missed: Sequence[str]
    machine_usd: float | None

    @property
    def total(self) -> GroupSummary:
        """The summary of all routes."""
        return self.groups["all"]

    @property
    def shown(self) -> dict[str, GroupSummary]:
        """The summaries that a table shows: the groups, and the routes if there are few."""
        few = 1 < len(self.routes) <= MAX_ROUTES_SHOWN
        base = {
            name: summary
            for name, summary in self.routes.items()
            if few or (name == "base" and self.routes.keys() != {name})
        }
        return {**self.groups, **base}

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the results."""
        warnings = [self.run.ended_early and f"the load ended early: {self.run.ended_early}", self.client.warning]
        warnings += [_too_few(self.run.scenario.goal, self.rows), _not_kept_up(self.rows)]
        if shorter := self.total.shorter:
            warnings.append(f"{shorter} answers were shorter than requested: the server may not support ignore_eos")
        if self.total.completed and not self.total.output_tokens:
            warnings.append("the server does not count tokens (no usage in its streams)")
        return [warning for warning in warnings if warning]


def _too_few(goal: str | None, rows: Sequence[RequestRow]) -> str | None:
    """Warn of a goal whose percentiles rest on too few requests."""
    needed = required_requests(parse_goal(goal)) if goal else 0
    return f"{len(rows)} requests are too few to judge {goal}: {needed} are needed" if len(rows) < needed else None


def _not_kept_up(rows: Sequence[RequestRow]) -> str | None:
    """Warn of a server that fell behind: its latencies are those of a queue that grows, and depend on the duration."""
    end = max((row.scheduled for row in rows), default=0.0)
    if len(rows) < MIN_REQUESTS or end <= 0:
        return None
    state = measure_steady_state([row.scheduled for row in rows], rows, end)
    return f"the server did not keep up: {state.problem}" if state.problem and state.is_overloaded else None


def report_run(run: LoadRun, prices: PriceList | None = None) -> RunReport:
    """Make the report of a run with at least one request of the load."""
    rows = without_warm_up(run.rows)
    goal = parse_goal(run.scenario.goal) if run.scenario.goal else None
    options = SummaryOptions(goal, prices, fixed_lengths=not run.scenario.output.natural)
    groups = summarize_groups(rows, options, run.job_ran)
    return RunReport(
        run=run,
        rows=rows,
        groups=groups,
        routes=summarize_routes(rows, options),
        client=client_health(rows, run.client_busy),
        windows=split_windows(rows, run.scenario.window),
        missed=goal.missed_terms(rows) if goal else [],
        machine_usd=prices.machine_usd(groups["all"].seconds) if prices else None,
    )


def report_document(reports: Sequence[RunReport], sweeps: Sequence[SweepResult] = ()) -> dict[str, Any]:
    """Return the report as JSON data. Intervals are [low, estimate, high]; null is an open end."""
    return {
        "machine": describe_machine(),
        "definitions": DEFINITIONS,
        "runs": [_run_document(each) for each in reports],
        "sweeps": [asdict(sweep) | {"description": sweep.description} for sweep in sweeps],
    }


def _run_document(report: RunReport) -> dict[str, Any]:
    groups = {name: _group_document(summary) for name, summary in report.groups.items()}
    if DURING_JOB in groups:
        groups["beside the job"] = groups[DURING_JOB]  # deprecated name
    return {
        "server": report.run.target,
        "scenario": report.run.scenario.model_dump(mode="json", exclude_unset=True),
        "seed": report.run.seed,
        "vllm": vllm_result(report.rows, report.total),
        "groups": groups,
        "routes": {name: _group_document(summary) for name, summary in report.routes.items()},
        "windows": [asdict(window) for window in report.windows],
        "drift": drift(report.windows),
        "client": asdict(report.client),
        "machine_usd": report.machine_usd,
        "goal": report.run.scenario.goal,
        "missed": list(report.missed),
        "notes": report.run.notes,
        "warnings": report.warnings,
    }


def _group_document(summary: GroupSummary) -> dict[str, Any]:
    times = {
        measure: {name: _finite_or_null(interval) for name, interval in quantiles.items()}
        | {"mean": summary.means[measure]}
        for measure, quantiles in summary.times.items()
    }
    rates = {"rate": summary.rate, "goodput": summary.goodput, "output_rate": summary.output_rate}
    return asdict(summary) | rates | {"times": times}


def _finite_or_null(interval: Interval) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in interval]


def table_rows(reports: Sequence[RunReport]) -> list[list[str]]:
    """Return the rows of the table after its header row, without the COLUMNS that are empty."""
    rows = [[each.run.target, name, *_cells(summary)] for each in reports for name, summary in each.shown.items()]
    columns = [column for column in zip(COLUMNS, *rows, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*columns, strict=True)]


def _cells(summary: GroupSummary) -> list[str]:
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


def brief_cells(name: str, summary: GroupSummary) -> list[str]:
    """Return the cells for BRIEF_COLUMNS: medians and 95th percentiles, without intervals."""

    def both(measure: str, factor: float) -> str:
        times = summary.times.get(measure)
        return " / ".join(_open_number(times[q], factor) for q in ("p50", "p95")) if times else ""

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


def _time(summary: GroupSummary, measure: str, quantile: str, factor: float) -> str:
    interval = summary.times.get(measure, {}).get(quantile)
    if interval is None:
        return ""
    low, estimate, high = (_number(value * factor) for value in interval)
    return f"{estimate} [{low}, {high}]"


def _open_number(interval: Interval, factor: float) -> str:
    """A number of which too few requests tell how large it may be ends in an ellipsis."""
    return _number(interval.estimate * factor) + ("" if math.isfinite(interval.high) else "…")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "…"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def fact_lines(report: RunReport) -> list[str]:
    """Return the lines about one run that follow the table."""
    health = report.client
    busy = "" if health.busy is None else f", {health.busy:.0%} of a core"
    lines = [
        f"{report.run.target}: client lag p50 {health.lag_p50 * 1000:.1f} ms, p99 {health.lag_p99 * 1000:.1f} ms, "
        f"at most {health.lag_max * 1000:.1f} ms{busy}",
    ]
    total = report.total
    lines.append(
        f"{report.run.target}: {total.input_tokens} input tokens ({total.cached_tokens} cached), "
        f"{total.output_tokens} output tokens"
    )
    if (ratio := drift(report.windows)) is not None:
        length = report.run.scenario.window
        lines.append(f"{report.run.target}: p50 TTFT of the last {length:g} s relative to the first: {ratio:.2f}")
    if report.machine_usd:
        tokens = report.total.output_tokens
        per_token = f", ${report.machine_usd / tokens * 1e6:.3g} per million output tokens" if tokens else ""
        lines.append(f"{report.run.target}: machine cost ${report.machine_usd:.3g} for this time{per_token}")
    if report.run.scenario.goal:
        result = "missed: " + "; ".join(report.missed) if report.missed else "met"
        lines.append(f"{report.run.target}: goal {report.run.scenario.goal}: {result}")
    lines += [f"{report.run.target}: {note}" for note in report.run.notes]
    return [*lines, *(f"{report.run.target}: WARNING: {warning}" for warning in report.warnings)]


def report_markdown(reports: Sequence[RunReport], sweeps: Sequence[SweepResult] = ()) -> str:
    """Return the report as Markdown."""
    scenario = reports[0].run.scenario
    arguments = scenario.model_dump(mode="json", exclude_unset=True, exclude={"title", "about"})
    lines = [f"# {escape_markdown(scenario.title)}", "", escape_markdown(scenario.about.strip()), ""]
    columns, *rows = table_rows(reports)
    lines += markdown_table(columns, [[escape_markdown(cell) for cell in row] for row in rows])
    lines += ["", *(f"- {escape_markdown(fact)}" for each in reports for fact in fact_lines(each))]
    lines += [f"- {escape_markdown(sweep.description)}" for sweep in sweeps]
    lines += ["", "## Definitions", "", *(f"- **{term}**: {meaning}" for term, meaning in DEFINITIONS.items())]
    lines += ["", "## Scenario", "", f"- seed: {reports[0].run.seed}"]
    lines += [f"- {name}: {escape_markdown(json.dumps(value))}" for name, value in arguments.items()]
    lines += ["", "## Machine", "", *(f"- {name}: {value}" for name, value in describe_machine().items())]
    return "\n".join(lines) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
