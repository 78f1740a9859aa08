"""A job whose trainer, publishing and evaluation take known times, on a clock that is moved instead of waited for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from loramux_adapters.finetuning.events import Checkpointed, Finished, Saved, Started, Step, TrainerEvent, Validated
from loramux_adapters.finetuning.jobs.event_log import JobEventLog
from loramux_adapters.finetuning.jobs.models import JobRecord
from loramux_adapters.finetuning.jobs.observer import NullJobObserver
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.timings import JobTimings
from loramux_adapters.finetuning.recipes.estimate import JobWork, PhaseSpeeds
from loramux_adapters.finetuning.trainer.pace import PlannedSteps, TrainingPace
from tests.helpers.fine_tuning_jobs import job_record

FLOPS_PER_TOKEN = 400e6
MACHINE = "simulated"


@dataclass(frozen=True)
class JobScript:
    """What happens in a job, all times in seconds. `steps` has the duration and the tokens of each step."""

    steps: Sequence[tuple[float, int]]
    loading: float = 15.0
    validation: float = 0.0
    validation_tokens: int = 0
    save: float = 0.2
    publishing: float = 4.0
    evaluating: float = 0.0
    questions: int = 0

    @property
    def checkpoint_steps(self) -> frozenset[int]:
        return frozenset(-(-len(self.steps) * part // 3) for part in (1, 2, 3))

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.steps)

    @property
    def work(self) -> JobWork:
        tokens = self.tokens + 3 * self.validation_tokens / 2
        flops = tokens * FLOPS_PER_TOKEN
        return JobWork(
            steps=len(self.steps),
            tokens=self.tokens,
            flops=flops,
            recomputed_flops=flops / 2,
            questions=self.questions,
        )


@dataclass
class _Clock:
    now: float = 1e9
    samples: list[tuple[float, float | None]] = field(default_factory=list)
    log: JobEventLog | None = None

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock in small steps, and sample the time left after each."""
        for _ in range(max(1, min(20, int(seconds)))):
            self.now += seconds / max(1, min(20, int(seconds)))
            if self.log:
                self.samples.append((self.now, self.log.seconds_left()))


class _NullRegistry:
    """Stores nothing."""

    def update_running(self, *_: Any, **__: Any) -> None:
        pass


@dataclass(frozen=True)
class PlayedJob:
    """The record of a job that has ended, and the time left that was shown at each moment (clock, seconds)."""

    record: JobRecord
    samples: Sequence[tuple[float, float | None]]
    began: float

    def error_at(self, share: float) -> float:
        """The relative error of the time left when this share of the job's time had passed; positive: too long."""
        end = self.record.finished_at or 0.0
        moment = self.began + share * (end - self.began)
        at, left = min(self.samples, key=lambda sample: abs(sample[0] - moment))
        assert left is not None
        return (left - (end - at)) / (end - at)


async def play_job(script: JobScript, speeds: PhaseSpeeds, **started: Any) -> PlayedJob:
    """Play a job that starts as `started` says; its time left is estimated from `speeds` and from what happens."""
    clock = _Clock()
    waiting = replace(job_record(JobState.RUNNING), timings=JobTimings(work=script.work, machine=MACHINE))
    registry: Any = _NullRegistry()
    log = JobEventLog(registry, waiting, NullJobObserver(), clock, speeds, lambda _: MACHINE, clock=clock)
    clock.log = log
    began = clock.now
    await log.enter("loading")
    clock.advance(script.loading)
    for event in _training(script, clock, started):
        await log.record(event)
    clock.advance(script.publishing)
    await log.enter("evaluating")
    if script.evaluating:
        clock.advance(script.evaluating)
    record = replace(
        waiting, state=JobState.SUCCEEDED, progress=log.progress, timings=log.timings, finished_at=clock.now
    )
    return PlayedJob(record, clock.samples, began)


def _training(script: JobScript, clock: _Clock, started: dict[str, Any]) -> Any:
    """Yield the trainer's events, each at its time."""
    count, planned = len(script.steps), _planned(script)
    pace, began, tokens = TrainingPace(planned), clock.now, 0
    common: dict[str, Any] = {"examples": 1, "trained_parameters": 1, "base_parameters": 100}
    yield Started(steps=count, **common, **started)
    for step, (seconds, step_tokens) in enumerate(script.steps, start=1):
        clock.advance(seconds)
        tokens += step_tokens
        pace.add_step(seconds, step_tokens)
        left = pace.seconds_left(step, tokens)
        yield Step(step=step, steps=count, loss=1.0, tokens=tokens, seconds=clock.now - began, seconds_left=left)
        if step in planned.checkpoint_steps:
            yield from _checkpoint(step, script, pace, clock)
    yield Finished(size=1, seconds=clock.now - began)


def _checkpoint(step: int, script: JobScript, pace: TrainingPace, clock: _Clock) -> Sequence[TrainerEvent]:
    if script.validation:
        clock.advance(script.validation)
        pace.add_validation(script.validation)
    clock.advance(script.save)
    pace.add_save(script.save)
    return [Validated(step=step, loss=1.0), Checkpointed(step=step, folder="x"), Saved(step=step)]


def _planned(script: JobScript) -> PlannedSteps:
    return PlannedSteps(
        steps=len(script.steps),
        tokens=script.tokens,
        checkpoint_steps=script.checkpoint_steps,
        validation_tokens=script.validation_tokens,
    )
