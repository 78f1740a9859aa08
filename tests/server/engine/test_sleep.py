"""The engine's sleep during a training: what it waits for, and that it always wakes up."""

import asyncio
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loramux_adapters.errors import EngineAsleep
from loramux_adapters.finetuning.jobs.engine_memory import borrowed_memory
from loramux_adapters.finetuning.jobs.errors import EngineBusy, EngineLost, EngineSleepFailed
from loramux_server.engine.admission import EngineState
from loramux_server.engine.sleep import CLIENT_SECONDS, DRAIN_SECONDS, WAKE_ATTEMPTS, EngineSleep
from tests.helpers.sleepy_engine import SleepyEngine, settle

BROKEN = RuntimeError("out of memory")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def sleep_of(engine: SleepyEngine, clock: Clock | None = None) -> EngineSleep:
    return EngineSleep(engine, engine.admission, clock or Clock(), poll_seconds=0, wake_retry_seconds=0)


@pytest.fixture
def engine() -> SleepyEngine:
    engine = SleepyEngine()
    engine.is_instant = True
    return engine


async def cancel(task: "asyncio.Task[Any]") -> None:
    """Cancel a task, and see that it was cancelled."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_engine_sleeps_and_wakes_up(engine: SleepyEngine) -> None:
    sleep = sleep_of(engine)
    for _ in range(2):
        await sleep.free()
        assert (engine.admission.state, engine.is_mapped) == (EngineState.ASLEEP, False)
        await sleep.restore()
        assert (engine.admission.state, engine.is_mapped) == (EngineState.AWAKE, True)
    assert engine.calls == ["sleep", "wake"] * 2


async def test_waking_an_engine_that_is_awake_does_nothing(engine: SleepyEngine) -> None:
    await sleep_of(engine).restore()
    assert engine.calls == []


@pytest.mark.parametrize("kind", ["request", "use", "run"])
async def test_what_has_begun_ends_before_the_engine_sleeps(engine: SleepyEngine, kind: str) -> None:
    sleep, held = sleep_of(engine), ExitStack()
    if kind == "run":
        engine.unfinished = 1
    else:
        held.enter_context(getattr(engine.admission, kind)())
    task = asyncio.create_task(sleep.free())
    await settle(task.done)
    assert (engine.admission.state, engine.calls) == (EngineState.DRAINING, [])
    held.close()
    engine.unfinished = 0
    await task
    assert engine.calls == ["sleep"]


async def test_a_request_that_only_waits_for_its_client_is_not_waited_for(engine: SleepyEngine) -> None:
    """A client that reads slowly must not keep all others from being served."""
    clock = Clock()
    with engine.admission.request():
        engine.unfinished = 1
        task = asyncio.create_task(sleep_of(engine, clock).free())
        await settle(task.done)
        clock.now += CLIENT_SECONDS
        await settle(task.done)
        assert engine.admission.state is EngineState.DRAINING  # it still runs
        engine.unfinished = 0
        await settle(task.done)
        clock.now += CLIENT_SECONDS - 0.1
        await settle(task.done)
        assert engine.admission.state is EngineState.DRAINING
        clock.now += 0.1
        await task
        with pytest.raises(EngineAsleep):
            engine.admission.check()


async def test_a_host_without_room_for_the_weights_keeps_an_engine_that_runs(engine: SleepyEngine) -> None:
    engine.backup = [(8_000_000_000, 15_000_000_000, True), (8_000_000_000, 16_000_000_000, True)]
    with pytest.raises(EngineSleepFailed, match=r"needs 16\.0 GB of the host's memory, and 15\.0 GB are free"):
        await sleep_of(engine).free()
    assert (engine.admission.state, engine.calls) == (EngineState.AWAKE, [])


@pytest.mark.parametrize("is_kept", [True, False])
async def test_only_memory_that_is_kept_after_the_first_sleep_is_not_needed_again(
    engine: SleepyEngine, is_kept: bool
) -> None:
    """In WSL2, it is freed when the engine wakes."""
    sleep = sleep_of(engine)
    engine.backup = [(8, 19, True), (8, 19, is_kept)]
    await sleep.free()
    await sleep.restore()
    engine.backup = [(8, 7, True), (8, 7, is_kept)]
    with nullcontext() if is_kept else pytest.raises(EngineSleepFailed):
        await sleep.free()
    assert engine.admission.is_awake is not is_kept


async def test_a_worker_that_fails_to_answer_is_not_a_dead_engine(engine: SleepyEngine) -> None:
    """The job would wait for a server that never exits."""
    engine.backup_error = RuntimeError("no such method")
    with pytest.raises(EngineSleepFailed, match="can't say what memory its sleep takes"):
        await sleep_of(engine).free()
    assert (engine.admission.state, engine.calls) == (EngineState.AWAKE, [])


async def test_new_requests_are_not_refused_for_longer_than_a_limit(engine: SleepyEngine) -> None:
    clock = Clock()
    engine.unfinished = 1
    task = asyncio.create_task(sleep_of(engine, clock).free())
    await settle(task.done)
    clock.now += DRAIN_SECONDS - 1
    await settle(task.done)
    with pytest.raises(EngineAsleep, match="The engine finishes its requests"), engine.admission.request():
        pass
    clock.now += 1
    with pytest.raises(EngineBusy, match=r"Requests have run for 120 seconds") as caught:
        await task
    assert caught.value.retry_after == 300
    with engine.admission.request():
        assert engine.calls == []
    assert engine.unfinished == 1  # nobody's answer is lost


@pytest.mark.parametrize("error", [None, RuntimeError("a check failed")])
async def test_what_failed_because_the_engine_slept_is_done_when_it_wakes(
    engine: SleepyEngine, error: Exception | None
) -> None:
    states: list[EngineState] = []

    async def resume() -> None:
        states.append(engine.admission.state)
        if error:
            raise error

    sleep = EngineSleep(engine, engine.admission, on_awake=resume)
    await sleep.free()
    assert states == []
    await sleep.restore()
    await sleep.restore()
    assert states == [EngineState.AWAKE]


async def test_a_job_that_is_cancelled_while_requests_end_leaves_the_engine_awake(engine: SleepyEngine) -> None:
    engine.unfinished = 1
    task = asyncio.create_task(sleep_of(engine).free())
    await settle(task.done)
    await cancel(task)
    assert (engine.admission.state, engine.calls) == (EngineState.AWAKE, [])


async def test_a_job_that_is_cancelled_while_the_engine_falls_asleep_wakes_it_again(engine: SleepyEngine) -> None:
    engine.is_instant = False
    task = asyncio.create_task(sleep_of(engine).free())
    await settle(lambda: engine.waiting is not None)
    task.cancel()
    await settle(task.done)
    assert not task.done()  # vLLM can't stop in the middle
    engine.is_instant = True
    engine.answer()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.admission.state, engine.calls) == (EngineState.AWAKE, ["sleep", "wake"])


async def test_a_job_that_is_cancelled_while_the_engine_wakes_up_waits_for_it(engine: SleepyEngine) -> None:
    sleep = sleep_of(engine)
    await sleep.free()
    engine.is_instant = False
    task = asyncio.create_task(sleep.restore())
    await settle(lambda: engine.waiting is not None)
    task.cancel()
    await settle(task.done)
    assert engine.admission.state is EngineState.WAKING
    engine.answer()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.admission.is_awake


async def test_an_engine_that_can_not_be_woken_at_once_is_woken_again(engine: SleepyEngine) -> None:
    sleep = sleep_of(engine)
    await sleep.free()
    engine.is_instant = False
    task = asyncio.create_task(sleep.restore())
    for answer in (*[BROKEN] * (WAKE_ATTEMPTS - 1), None):
        await settle(lambda: engine.waiting is not None)
        engine.answer(answer)
    await task
    assert engine.admission.is_awake


@pytest.mark.parametrize("answer", [BROKEN, False])
async def test_an_engine_that_does_not_wake_up_is_lost(engine: SleepyEngine, answer: object) -> None:
    sleep = sleep_of(engine)
    await sleep.free()
    engine.is_instant = False
    task = asyncio.create_task(sleep.restore())
    for _ in range(WAKE_ATTEMPTS):
        await settle(lambda: engine.waiting is not None)
        engine.answer(answer)
    with pytest.raises(EngineLost):
        await task
    assert engine.admission.has_failed
    with pytest.raises(EngineLost):  # the next job is resumed by the next server
        await sleep.free()


async def test_an_engine_that_fails_to_sleep_is_lost_and_the_job_fails(engine: SleepyEngine) -> None:
    """The next server would fail in the same way, again and again."""
    engine.is_instant = False
    task = asyncio.create_task(sleep_of(engine).free())
    await settle(lambda: engine.waiting is not None)
    engine.answer(BROKEN)
    with pytest.raises(EngineSleepFailed):
        await task
    assert engine.admission.has_failed


async def test_an_engine_that_died_before_is_no_fault_of_the_job(engine: SleepyEngine) -> None:
    engine.errored = True
    with pytest.raises(EngineLost):
        await sleep_of(engine).free()


@pytest.mark.parametrize("moment", ["sleep", "wake"])
async def test_nothing_waits_for_the_answer_of_an_engine_that_died(engine: SleepyEngine, moment: str) -> None:
    """vLLM never answers a call that its engine process died in, and the server could not exit."""
    sleep = sleep_of(engine)
    if moment == "wake":
        await sleep.free()
    engine.is_instant = False
    task = asyncio.create_task(sleep.free() if moment == "sleep" else sleep.restore())
    await settle(lambda: engine.waiting is not None)
    task.cancel()
    engine.errored = True
    with pytest.raises(EngineSleepFailed if moment == "sleep" else EngineLost):
        await task
    assert engine.admission.has_failed


class Log:
    """The part of a job's log that a loan of memory needs."""

    async def note(self, _message: str) -> None:
        await asyncio.sleep(0)


class SleepMachine(RuleBasedStateMachine):
    """Requests, work, jobs, and an engine that takes its time, fails and dies, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.engine, self.clock = SleepyEngine(), Clock()
        self.sleep = sleep_of(self.engine, self.clock)
        self.requests: list[ExitStack] = []
        self.uses: list[ExitStack] = []
        self.job: asyncio.Task[None] | None = None
        self.trained = asyncio.Event()
        self.is_training = False

    @property
    def admission(self) -> Any:
        return self.engine.admission

    def run(self) -> None:
        self.loop.run_until_complete(settle())

    async def train(self) -> None:
        async with borrowed_memory(self.sleep, Log()):  # type: ignore[arg-type]
            self.is_training = True
            try:
                await self.trained.wait()
            finally:
                self.is_training = False

    def enter(self, context: AbstractContextManager[None], held: list[ExitStack], *, expected: bool) -> None:
        stack = ExitStack()
        try:
            stack.enter_context(context)
        except EngineAsleep:
            assert not expected
        else:
            assert expected
            held.append(stack)

    @rule()
    def a_request_begins(self) -> None:
        self.enter(self.admission.request(), self.requests, expected=self.admission.state is EngineState.AWAKE)

    @rule()
    def work_begins(self) -> None:
        expected = self.admission.state in (EngineState.AWAKE, EngineState.DRAINING)
        self.enter(self.admission.use(), self.uses, expected=expected)

    @precondition(lambda self: self.admission.state in (EngineState.AWAKE, EngineState.DRAINING))
    @rule()
    def a_run_begins(self) -> None:
        self.admission.check()
        self.engine.unfinished += 1

    @precondition(lambda self: self.requests)
    @rule()
    def a_request_ends(self) -> None:
        self.requests.pop().close()
        self.run()

    @precondition(lambda self: self.uses)
    @rule()
    def work_ends(self) -> None:
        self.uses.pop().close()
        self.run()

    @precondition(lambda self: self.engine.unfinished)
    @rule()
    def a_run_ends(self) -> None:
        self.engine.unfinished -= 1
        self.run()

    @precondition(lambda self: self.job is None or self.job.done())
    @rule()
    def a_job_begins(self) -> None:
        self.trained.clear()
        self.job = self.loop.create_task(self.train())
        self.run()

    @rule()
    def the_training_ends(self) -> None:
        self.trained.set()
        self.run()

    @precondition(lambda self: self.job is not None)
    @rule()
    def the_job_is_cancelled(self) -> None:
        assert self.job is not None
        self.job.cancel()
        self.run()

    @rule(answer=st.sampled_from([None, None, None, BROKEN, False]))
    def the_engine_answers(self, answer: object) -> None:
        self.engine.answer(answer)
        self.run()

    @rule(seconds=st.sampled_from([1.0, CLIENT_SECONDS, DRAIN_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.run()

    @rule()
    def the_engine_dies(self) -> None:
        self.engine.errored = True
        self.run()

    @invariant()
    def nothing_touches_memory_that_is_not_there(self) -> None:
        assert self.engine.is_mapped or not self.uses
        assert self.engine.is_mapped == (self.admission.state in (EngineState.AWAKE, EngineState.DRAINING))

    @invariant()
    def a_trainer_runs_only_in_memory_that_is_free(self) -> None:
        if self.is_training:
            assert self.admission.state is EngineState.ASLEEP
            assert self.engine.waiting is None

    @invariant()
    def without_a_job_the_engine_is_awake_or_lost(self) -> None:
        if self.job is None or self.job.done():
            assert self.admission.state in (EngineState.AWAKE, EngineState.FAILED)

    def teardown(self) -> None:
        """However it got here: once everything has ended, the engine is awake, or the server exits."""
        for held in (*self.requests, *self.uses):
            held.close()
        self.engine.unfinished = 0
        self.trained.set()
        for _ in range(2 * WAKE_ATTEMPTS):
            self.run()
            self.engine.answer()
        self.run()
        assert self.job is None or self.job.done()
        assert self.admission.is_awake or self.admission.has_failed
        if self.job is not None and not self.job.cancelled():
            self.job.exception()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


TestSleepMachine = SleepMachine.TestCase
TestSleepMachine.settings = settings(max_examples=100, stateful_step_count=30)
