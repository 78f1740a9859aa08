"""Decides whether a candidate is promoted, rolled back or tested further."""

from collections.abc import Sequence
from dataclasses import dataclass

from loramux_adapters.evaluation.sequential import ScoreCounts, mean_interval
from loramux_server.experiments.models import ExperimentConfig, Limits, Observation, Outcome, State
from loramux_server.experiments.report import ExperimentReport
from loramux_server.experiments.verdict import NOT_WORSE


@dataclass(frozen=True)
class Decision:
    """The state in which the experiment ends, and why."""

    state: State
    reason: str


def decide(config: ExperimentConfig, report: ExperimentReport, rows: Sequence[Observation]) -> Decision | None:
    """Return the decision, None to go on.

    A limit is exceeded when the whole interval is beyond it, so chance exceeds it in at most 5 % of experiments.
    """
    if config.promotion is None:
        return None
    reason = _corrupted(config, rows) or _exceeded(config.promotion.limits, report, _candidate_rows(config, rows))
    if reason:
        return Decision(State.ROLLED_BACK, reason)
    accepted = NOT_WORSE if config.promotion.when == "not-worse" else ("better",)
    if report.verdict in accepted:
        return Decision(State.PROMOTED, report.sentence)
    if report.verdict in ("worse", "as good"):
        return Decision(State.ROLLED_BACK, report.sentence)
    return None


def _candidate_rows(config: ExperimentConfig, rows: Sequence[Observation]) -> list[Observation]:
    return [row for row in rows if row.variant == config.challenger.name]


def _corrupted(config: ExperimentConfig, rows: Sequence[Observation]) -> str | None:
    if any(row.corrupted for row in rows if row.variant == config.challenger.name):
        return f"{config.challenger.version} computed NaN or infinite values."
    return None


def _exceeded(limits: Limits, report: ExperimentReport, candidate: Sequence[Observation]) -> str | None:
    if limits.errors is not None:
        # Requests count as independent here: an error too many rolls back, which is the safe side.
        failed = ScoreCounts.of([float(row.outcome is Outcome.FAILED) for row in candidate])
        interval = mean_interval(failed)
        if interval.low > limits.errors:
            share = f"{interval.estimate:.1%} of {failed.units} requests"
            return f"The candidate failed on {share}, beyond the limit of {limits.errors:.1%}."
    latency = next((each.ratio for each in report.ratios if each.measure == "duration"), None)
    if limits.latency is not None and latency is not None and latency.low > limits.latency:
        return f"The candidate takes {latency.estimate:.2f} times as long, beyond the limit of {limits.latency:g}."
    if limits.quality is not None and report.difference.high < -limits.quality:
        lower = -report.difference.estimate
        return f"The candidate's mean score is lower by {lower:.2f}, beyond the limit of {limits.quality:g}."
    return None
