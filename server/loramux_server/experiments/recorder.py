"""Records the requests of experiments: collects them when they are charged, then scores and stores them."""

import asyncio
import logging
from collections import Counter, defaultdict, deque
from statistics import fmean

from loramux_adapters.errors import StoreError
from loramux_adapters.evaluation.scorers.base import ScoringError
from loramux_server.experiments.assignment import Assignment
from loramux_server.experiments.metrics import ExperimentMetrics
from loramux_server.experiments.models import Observation, Outcome
from loramux_server.experiments.repository import ExperimentRepository
from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.usage_record import Charge, UsageRecord
from loramux_server.metering.usage_record import Outcome as RequestOutcome

logger = logging.getLogger("loramux.experiments")

MAX_WAITING = 10_000
"""Requests that wait to be scored and stored; further ones are left out and counted."""
MAX_BATCH = 500
"""Requests that one flush scores: a judge may take long, and candidates are looked at between two flushes."""
CONCURRENT_SCORES = 2


class ExperimentRecorder:
    """A ChargeSink that keeps the requests of experiments until `flush` scores and stores them."""

    def __init__(self, repository: ExperimentRepository, metrics: ExperimentMetrics) -> None:
        self._repository, self._metrics = repository, metrics
        self._waiting: deque[tuple[Assignment, UsageRecord, Charge]] = deque()
        self._unwritten: dict[str, list[Observation]] = {}
        self._flushing = asyncio.Lock()
        self.counters: dict[str, Counter[str]] = defaultdict(Counter)
        """How many requests were left out, by experiment and reason."""

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Keep a request of an experiment, which has ended and is charged."""
        assignment = record.experiment
        if assignment is None:
            return
        if len(self._waiting) + sum(map(len, self._unwritten.values())) < MAX_WAITING:
            self._waiting.append((assignment, record, charge))
        else:
            self.count(assignment, "not recorded: too many requests at once")

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Do nothing: idle time belongs to no experiment."""

    def count(self, assignment: Assignment, reason: str) -> None:
        """Count a request that is left out."""
        self.counters[assignment.experiment.id][reason] += 1

    async def flush(self) -> None:
        """Score and store up to MAX_BATCH waiting requests. If the database fails, they wait for the next call."""
        async with self._flushing:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            limit = asyncio.Semaphore(CONCURRENT_SCORES)

            async def observe(assignment: Assignment, record: UsageRecord, charge: Charge) -> None:
                async with limit:
                    await self._observe(assignment, record, charge)

            await asyncio.gather(*(observe(*waiting) for waiting in batch))
            for experiment_id in list(self._unwritten):
                await self._write(experiment_id)

    async def _write(self, experiment_id: str) -> None:
        rows, counters = self._unwritten[experiment_id], dict(self.counters[experiment_id])
        try:
            await asyncio.to_thread(self._repository.add_observations, experiment_id, rows, counters)
        except StoreError:
            logger.warning("%d requests of the experiment %s can't be stored yet.", len(rows), experiment_id)
            return
        del self._unwritten[experiment_id]
        for row in rows:
            self._metrics.observed(row)

    async def _observe(self, assignment: Assignment, record: UsageRecord, charge: Charge) -> None:
        rows = self._unwritten.setdefault(assignment.experiment.id, [])
        outcome = outcome_of(record, assignment)
        if outcome is None:
            self.count(assignment, "not counted: the request itself was refused")
            return
        rows.append(
            Observation(
                at=record.ended_at,
                unit=assignment.unit,
                variant=assignment.variant.name,
                request_id=record.request_id,
                key_id=record.key_id or "",
                outcome=outcome,
                score=await self._score(assignment, outcome),
                duration=record.duration,
                input_tokens=record.stats.input_tokens,
                output_tokens=record.stats.output_tokens,
                price_list_cost=charge.price_list,
                gpu_hour_cost=charge.gpu_hour,
                corrupted=record.stats.corrupted,
            )
        )

    async def _score(self, assignment: Assignment, outcome: Outcome) -> float | None:
        if outcome is Outcome.FAILED:
            return 0.0
        measure = assignment.measure
        if outcome is Outcome.CANCELLED or measure is None:
            return None
        if not assignment.texts:
            self.count(assignment, "not scored: only a tool call")
            return None
        try:
            scores = [await measure.score(assignment.question, text) for text in assignment.texts]
        except ScoringError:
            self.count(assignment, "not scored: the judge gave no grade")
            return None
        except Exception:  # a pattern or schema that fails must not stop the others
            logger.exception("An answer of the experiment %s could not be scored.", assignment.experiment.id)
            self.count(assignment, "not scored: the scorer failed")
            return None
        return fmean(scores)


def outcome_of(record: UsageRecord, assignment: Assignment) -> Outcome | None:
    """Return what the assigned variant made of a request, None if the request itself was invalid.

    A failure of the sampled variant is one by intention to treat: although the default variant then answered, the user
    was assigned to a variant that could not. If the default variant refused the request too, the request was invalid.
    """
    if record.outcome is RequestOutcome.CANCELLED:
        return Outcome.CANCELLED
    if record.outcome is RequestOutcome.REFUSED and record.status < 500:
        return None
    if record.outcome is RequestOutcome.OK and assignment.failure is None:
        return Outcome.ANSWERED
    return Outcome.FAILED
