"""Computes reports of running experiments, each at most a small share of the time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loramux_server.experiments.models import Experiment, FeedbackQuality, Observation
from loramux_server.experiments.report import ExperimentReport, build_report
from loramux_server.experiments.repository import ExperimentRepository

REST = 20.0
"""A report is computed again after this many times the seconds that it took."""


@dataclass(frozen=True)
class Look:
    """A report with the requests that it was computed from; kept until `valid_until` of the clock."""

    report: ExperimentReport
    rows: Sequence[Observation]
    valid_until: float


class ReportCache:
    """The latest report of each running experiment."""

    def __init__(self, repository: ExperimentRepository, clock: Callable[[], float] = time.monotonic) -> None:
        self._repository, self._clock = repository, clock
        self._looks: dict[str, Look] = {}

    async def look(self, experiment: Experiment, *, fresh: bool = False) -> Look:
        """Return the report of an experiment, which is computed again if it is old or must be `fresh`."""
        known = self._looks.get(experiment.id)
        if known is not None and not fresh and self._clock() < known.valid_until:
            return known
        self._looks[experiment.id] = look = await asyncio.to_thread(self._compute, experiment)
        return look

    def forget(self, experiment_id: str) -> None:
        """Drop the report of an experiment that has ended."""
        self._looks.pop(experiment_id, None)

    def clear(self) -> None:
        """Drop all reports."""
        self._looks.clear()

    def _compute(self, experiment: Experiment) -> Look:
        started = self._clock()
        with_feedback = isinstance(experiment.config.quality, FeedbackQuality)
        rows = self._repository.observations(experiment.id, with_feedback=with_feedback)
        report = build_report(experiment.config, rows)
        ended = self._clock()
        return Look(report, rows, ended + REST * (ended - started))
