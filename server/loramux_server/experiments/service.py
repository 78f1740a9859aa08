"""Starts, shows and ends experiments; the background task that records them and decides about candidates."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from loramux_adapters.background_tasks import running_task
from loramux_adapters.errors import AdapterError
from loramux_adapters.models import VersionId
from loramux_adapters.service import AdapterService
from loramux_server.experiments.errors import ExperimentEnded, ExperimentInvalid
from loramux_server.experiments.gate import Decision, decide
from loramux_server.experiments.live import LiveExperiments, RunningExperiment, broken_reason, unserved_reason
from loramux_server.experiments.measures import AskJudge, build_measure
from loramux_server.experiments.models import (
    Experiment,
    ExperimentConfig,
    JudgeQuality,
    State,
)
from loramux_server.experiments.proposal import Proposal, configure
from loramux_server.experiments.recorder import ExperimentRecorder
from loramux_server.experiments.report import ExperimentReport
from loramux_server.experiments.report_cache import ReportCache
from loramux_server.experiments.repository import ExperimentRepository

logger = logging.getLogger("loramux.experiments")

ACTOR = "experiment"
"""The actor of automatic changes in the audit log."""
TICK_SECONDS = 1.0
RETRY_SECONDS = 30.0
CLEANUP_SECONDS = 600.0
MAX_REQUESTS = 100_000
"""Recorded requests at which an experiment ends by itself: each look computes with all of them."""


@dataclass
class ExperimentService:
    """The experiments of a server. Its operations raise AdapterError."""

    repository: ExperimentRepository
    adapters: AdapterService
    live: LiveExperiments
    recorder: ExperimentRecorder
    ask_judge: AskJudge
    is_model: Callable[[str], bool]
    """Whether a name can be asked, as a judge must be."""
    retention_seconds: float = 30 * 86_400.0
    """How long the requests of an ended experiment are kept; its result stays."""
    is_metered: bool = True
    now: Callable[[], float] = time.time
    _cleaned_at: float = 0.0
    _reports: ReportCache = field(init=False)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._reports = ReportCache(self.repository)

    async def start(self, proposal: Proposal, *, actor: str) -> Experiment:
        """Start an experiment.

        Raises:
            AdapterNotFound: there is no such adapter.
            ExperimentInvalid: it can't be done as proposed.
            ExperimentRunning: another one is running for this adapter.
        """
        if not self.is_metered:
            raise ExperimentInvalid("Experiments need the usage ledger: set `metering: true`.")
        async with self._lock:
            config = configure(proposal, self.adapters.resolver)
            if isinstance(config.quality, JudgeQuality) and not self.is_model(config.quality.model):
                raise ExperimentInvalid(f"There is no model {config.quality.model[:80]!r} to judge.", "quality.model")
            measure = build_measure(config.quality, self.ask_judge)
            experiment = Experiment(
                id=f"exp_{secrets.token_hex(8)}",
                config=config,
                state=State.RUNNING,
                actor=actor,
                created_at=self.now(),
            )
            await asyncio.to_thread(self.repository.add, experiment)
            self.live.add(RunningExperiment(experiment, measure))
        await self._audit(experiment, "experiment_start", None, _summary(config) | {"id": experiment.id}, actor)
        return experiment

    async def stop(self, experiment_id: str, *, actor: str) -> Experiment:
        """Stop a running experiment: all requests are answered as before it.

        Raises:
            ExperimentNotFound: there is none with this id.
            ExperimentEnded: it has ended already.
        """
        experiment = await self.get(experiment_id)
        if experiment.state is not State.RUNNING:
            raise ExperimentEnded(f"The experiment {experiment.id} has ended already: it was {experiment.state}.")
        await self._end(experiment, Decision(State.STOPPED, "It was stopped."), actor)
        return await self.get(experiment_id)

    async def get(self, experiment_id: str) -> Experiment:
        """Return an experiment.

        Raises:
            ExperimentNotFound: there is none with this id.
        """
        return await asyncio.to_thread(self.repository.get, experiment_id)

    async def newest(self, adapter: str | None, limit: int) -> list[Experiment]:
        """Return experiments, newest first."""
        return await asyncio.to_thread(self.repository.newest, adapter, limit)

    async def report(self, experiment: Experiment) -> ExperimentReport:
        """Return the report at this moment, or that of the end."""
        if experiment.result is not None:
            return ExperimentReport.model_validate(experiment.result)
        return (await self._reports.look(experiment)).report

    async def resume(self) -> None:
        """Continue the experiments that were running when the server stopped."""
        for experiment in await asyncio.to_thread(self.repository.running):
            self.recorder.counters[experiment.id] = Counter(experiment.counters)
            try:
                measure = build_measure(experiment.config.quality, self.ask_judge)
            except ExperimentInvalid as error:
                await self._end(experiment, Decision(State.INTERRUPTED, error.message), ACTOR)
            else:
                self.live.add(RunningExperiment(experiment, measure))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Record requests and decide about candidates while the context is active."""
        await self.resume()
        try:
            async with running_task(self._work()):
                yield
        finally:
            await self.recorder.flush()

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.tick()
            except Exception:  # such as a database that can't be reached: a later tick tries again
                logger.exception("The experiments could not be looked at.")
                await asyncio.sleep(RETRY_SECONDS)

    async def tick(self) -> None:
        """Store what was recorded, and end the experiments that are decided or can't go on."""
        await self.recorder.flush()
        await self._delete_old()
        for running in self.live.all():
            decision = await self._decide(running.experiment)
            if decision is not None:
                await self._end(running.experiment, decision, ACTOR)

    async def _delete_old(self) -> None:
        now = self.now()
        if now - self._cleaned_at > CLEANUP_SECONDS:
            self._cleaned_at = now
            await asyncio.to_thread(self.repository.delete_old_observations, now - self.retention_seconds)

    async def _decide(self, experiment: Experiment) -> Decision | None:
        config, resolver = experiment.config, self.adapters.resolver
        reason = broken_reason(experiment, resolver)
        if reason is not None:
            is_candidate = config.promotion is not None and unserved_reason(config.challenger, resolver) is not None
            if config.promotion is not None and _points_at(resolver.get(config.adapter), config.challenger.version):
                return Decision(State.PROMOTED, "The candidate was promoted.")
            return Decision(State.ROLLED_BACK if is_candidate else State.INTERRUPTED, reason)
        seen = await self._reports.look(experiment)
        if len(seen.rows) >= MAX_REQUESTS:
            return Decision(State.COMPLETED, f"{MAX_REQUESTS:,} requests were recorded.")
        return decide(config, seen.report, seen.rows)

    async def _end(self, experiment: Experiment, decision: Decision, actor: str) -> None:
        async with self._lock:
            if (await self.get(experiment.id)).state is not State.RUNNING:
                return
            if decision.state is State.PROMOTED:
                decision = await self._promote(experiment, decision, actor)
            running = self.live.of(experiment.config.adapter)
            self.live.remove(experiment)
            try:
                await self._store_end(experiment, decision)
            except AdapterError:  # the database failed: the experiment goes on, and can be ended again
                if running is not None:
                    self.live.add(running)
                raise
        after = {"id": experiment.id, "state": decision.state, "reason": decision.reason}
        await self._audit(experiment, "experiment_end", {"state": State.RUNNING}, after, actor)

    async def _store_end(self, experiment: Experiment, decision: Decision) -> None:
        await self.recorder.flush()
        report = (await self._reports.look(experiment, fresh=True)).report
        result, counters = report.model_dump(mode="json"), dict(self.recorder.counters[experiment.id])
        end = self.repository.end
        await asyncio.to_thread(end, experiment.id, decision.state, decision.reason, self.now(), counters, result)
        self._reports.forget(experiment.id)

    async def _promote(self, experiment: Experiment, decision: Decision, actor: str) -> Decision:
        """Point the name at the candidate; if that fails, the experiment is rolled back with the reason."""
        version = VersionId.parse(str(experiment.config.challenger.version))
        try:
            await self.adapters.set_alias(version.name, {version.digest: 1.0}, actor=actor, checked=False)
        except AdapterError as error:
            return Decision(State.ROLLED_BACK, f"The candidate could not be promoted: {error.message}")
        return decision

    async def _audit(self, experiment: Experiment, action: str, before: object, after: object, actor: str) -> None:
        with suppress(AdapterError):  # the adapter may have been removed; the experiment itself is stored
            await self.adapters.write_audit(experiment.config.adapter, action, before, after, actor=actor)


def _points_at(record: object, version: str | None) -> bool:
    targets = getattr(record, "targets", {})
    return version is not None and list(targets) == [VersionId.parse(version).digest]


def _summary(config: ExperimentConfig) -> dict[str, object]:
    def name(version: str | None) -> str:
        return version or "base"

    return {
        config.challenger.name: name(config.challenger.version),
        config.reference.name: name(config.reference.version),
        "share": config.share,
        "quality": config.quality.type,
    }
