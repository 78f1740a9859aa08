"""One sweep on one running server: its rates are run as loads, each with new prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loramux_loadtests.loadtest.errors import NoRequestError
from loramux_loadtests.loadtest.goals import parse_goal
from loramux_loadtests.loadtest.output import Invocation, write_report
from loramux_loadtests.loadtest.progress import ProgressLine
from loramux_loadtests.loadtest.rate_trial import RateTrial, RateWatch, judge_rate
from loramux_loadtests.loadtest.report import RunReport, report_run
from loramux_loadtests.loadtest.session import TargetServer, run_load
from loramux_loadtests.loadtest.summary import without_warm_up
from loramux_loadtests.loadtest.sweep import RateSearch, SweepResult, measured_capacity


@dataclass(frozen=True)
class SweepOptions:
    """How rates are searched for. Each one runs from the scenario's duration to `max_seconds`, until it can be judged.

    The result is run again for `confirm_seconds`; 0 skips this.
    """

    precision: float = 0.1
    max_seconds: float = 300.0
    confirm_seconds: float = 120.0


@dataclass
class _SweepSession:
    """Runs rates on a server; reports are appended to `reports` and written at once."""

    invocation: Invocation
    target: TargetServer
    options: SweepOptions
    reports: list[RunReport]
    progress: ProgressLine

    def __post_init__(self) -> None:
        self._runs = 0
        self._goal = parse_goal(self.invocation.scenario.goal or "")
        self.search = RateSearch(self._run, self.options.precision, [])

    async def _run(self, rate: float, seconds: float) -> RateTrial | None:
        scenario, invocation = self.invocation.scenario, self.invocation
        shortest = max(scenario.duration or 0.0, seconds)
        longest = max(self.options.max_seconds, shortest, 2 * seconds)  # the beginning takes half of a run at most
        watch = RateWatch(rate, self._goal, shortest, longest, measured_capacity(self.search.trials), seconds)
        suffix = " again" if seconds else ""
        named = replace(self.target, name=f"{self.target.name} at {rate:.3g}/s{suffix}")
        # Another seed each time: the previous prompts are in the prefix cache.
        seed = invocation.seed + self._runs
        at_rate = scenario.with_changes(rate=rate, duration=longest)
        try:
            run = await run_load(at_rate, named, seed, invocation.rows_path(named.name), self.progress, watch.is_enough)
        except NoRequestError as error:
            if not self._runs:
                raise
            self.progress.print_line(f"{named.name}: {error}")
            return None
        self._runs += 1
        rows = without_warm_up(run.rows)
        trial = judge_rate(rate, self._goal, rows, watch.ended_at or max(row.scheduled for row in rows))
        self._report(report_run(run, invocation.prices), trial)
        return None if run.ended_early else trial

    def _report(self, report: RunReport, trial: RateTrial) -> None:
        report = replace(report, missed=[*trial.reasons])
        self.reports.append(report)
        write_report(self.invocation, self.reports)
        outcome = trial.reasons or [f"the goal is met, and {trial.state.answered_rate:.3g}/s were answered"]
        self.progress.print_line("; ".join([report.run.target, *outcome]))


async def sweep_server(
    invocation: Invocation,
    target: TargetServer,
    options: SweepOptions,
    reports: list[RunReport],
    progress: ProgressLine,
) -> SweepResult:
    """Search for the highest rate that `target` holds; the report of each run is appended to `reports`.

    Raises:
        NoRequestError: the first rate has no request.
        LoadTestError: a load can't start.
    """
    session = _SweepSession(invocation, target, options, reports, progress)
    bracket = await session.search.highest_rate(invocation.scenario.arrivals.rate or 1.0)
    sustained = None
    if options.confirm_seconds and not _ended_early(reports):
        bracket, sustained = await session.search.confirm(bracket, options.confirm_seconds)
    goal, trials = str(parse_goal(invocation.scenario.goal or "")), session.search.trials
    return SweepResult(target.name, goal, bracket, trials, sustained, was_confirmed=options.confirm_seconds > 0)


def _ended_early(reports: Sequence[RunReport]) -> bool:
    return bool(reports) and reports[-1].run.ended_early is not None
