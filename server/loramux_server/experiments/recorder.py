"""Records the requests of experiments: collects them when they are charged, then scores and stores them."""

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from loramux_adapters.errors import StoreError
from loramux_adapters.evaluation.scorers.base import ScoringError
from loramux_server.experiments.assignment import Assignment
from loramux_server.experiments.measures import Measure
from loramux_server.experiments.metrics import ExperimentMetrics
from loramux_server.experiments.models import FeedbackQuality, Observation, Outcome
from loramux_server.experiments.repository import ExperimentRepository
from loramux_server.metering.cost_allocation import EngineTime
from loramux_server.metering.usage_record import Charge, UsageRecord
from loramux_server.metering.usage_record import Outcome as RequestOutcome

logger = logging.getLogger("loramux.experiments")

MAX_WAITING = 10_000
"""Requests that wait to be scored and stored; further ones are left out and counted."""
CONCURRENT_SCORES = 2


class ExperimentRecorder:
    """A ChargeSink that keeps the requests of experiments until `flush` scores and stores them.

    `measure_of` returns the measure of a running experiment by its id, None if there is none.
    """

    def __init__(
        self,
        repository: ExperimentRepository,
        measure_of: Callable[[str], Measure | None],
        metrics: ExperimentMetrics,
    ) -> None:
        self._repository, self._measure_of, self._metrics = repository, measure_of, metrics
        self._waiting: deque[tuple[UsageRecord, Charge]] = deque()
        self._flushing = asyncio.Lock()
        self.counters: dict[str, Counter[str]] = defaultdict(Counter)
        """How many requests were left out, by experiment and reason."""

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Keep a request of an experiment, which has ended and is charged."""
        assignment = record.experiment
        if assignment is None:
            return
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append((record, charge))
        else:
            self.count(assignment, "not recorded: too many requests at once")

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Do nothing: idle time belongs to no experiment."""

    def count(self, assignment: Assignment, reason: str) -> None:
        """Count a request that is left out."""
        self.counters[assignment.experiment.id][reason] += 1

    async def flush(self) -> None:
        """Score and store the waiting requests. If the database fails, they wait for the next call."""
        async with self._flushing:
            taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
            by_experiment: dict[str, list[tuple[UsageRecord, Charge]]] = defaultdict(list)
            for record, charge in taken:
                if record.experiment is not None:
                    by_experiment[record.experiment.experiment.id].append((record, charge))
            for experiment_id, requests in by_experiment.items():
                await self._store(experiment_id, requests)

    async def _store(self, experiment_id: str, requests: Sequence[tuple[UsageRecord, Charge]]) -> None:
        limit = asyncio.Semaphore(CONCURRENT_SCORES)
        measure = self._measure_of(experiment_id)

        async def observe(record: UsageRecord, charge: Charge) -> Observation | None:
            async with limit:
                return await self._observe(record, charge, measure)

        observed = await asyncio.gather(*(observe(record, charge) for record, charge in requests))
        rows = [row for row in observed if row is not None]
        counters: Mapping[str, int] = dict(self.counters[experiment_id])
        try:
            await asyncio.to_thread(self._repository.add_observations, experiment_id, rows, counters)
        except StoreError:
            logger.warning("%d requests of the experiment %s can't be stored.", len(rows), experiment_id)
            self.counters[experiment_id]["not recorded: the database failed"] += len(rows)
            return
        for row in rows:
            self._metrics.observed(row)

    async def _observe(self, record: UsageRecord, charge: Charge, measure: Measure | None) -> Observation | None:
        assignment = record.experiment
        assert assignment is not None  # noqa: S101 - checked by `record_charge`
        outcome = outcome_of(record, assignment)
        if outcome is None:
            self.count(assignment, "not counted: the request itself was refused")
            return None
        return Observation(
            at=record.ended_at,
            unit=assignment.unit,
            variant=assignment.variant.name,
            request_id=record.request_id,
            key_id=record.key_id or "",
            outcome=outcome,
            score=await self._score(assignment, outcome, measure),
            duration=record.duration,
            input_tokens=record.stats.input_tokens,
            output_tokens=record.stats.output_tokens,
            price_list_cost=charge.price_list,
            gpu_hour_cost=charge.gpu_hour,
            corrupted=record.stats.corrupted,
        )

    async def _score(self, assignment: Assignment, outcome: Outcome, measure: Measure | None) -> float | None:
        if outcome is Outcome.FAILED:
            return 0.0
        if outcome is Outcome.CANCELLED or isinstance(assignment.experiment.config.quality, FeedbackQuality):
            return None
        if not assignment.texts or measure is None:
            self.count(assignment, "not scored: no text, such as a tool call")
            return None
        try:
            scores = [await measure.score(assignment.question, text) for text in assignment.texts]
        except ScoringError as error:
            self.count(assignment, f"not scored: {error}"[:100])
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
