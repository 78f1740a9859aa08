"""Who may use an engine that may sleep."""

import asyncio
import itertools

import pytest

from loramux_adapters.errors import EngineAsleep
from loramux_server.engine.admission import EngineAdmission, EngineState
from tests.helpers.sleepy_engine import settle

WAY = (EngineState.DRAINING, EngineState.ASLEEP, EngineState.WAKING, EngineState.AWAKE)


def admission_in(state: EngineState) -> EngineAdmission:
    admission = EngineAdmission(poll_seconds=0)
    for step in (*WAY[:3], state) if state is EngineState.FAILED else WAY[: WAY.index(state) + 1]:
        admission.move(step)
    return admission


def admits(admission: EngineAdmission) -> bool:
    try:
        with admission.request():
            assert admission.requests == 1
    except EngineAsleep:
        return False
    return True


def is_usable(admission: EngineAdmission) -> bool:
    try:
        with admission.use():
            assert admission.uses == 1
    except EngineAsleep:
        return False
    return True


@pytest.mark.parametrize(
    ("state", "new", "begun"),
    [
        (EngineState.AWAKE, True, True),
        (EngineState.DRAINING, False, True),
        (EngineState.ASLEEP, False, False),
        (EngineState.WAKING, False, False),
        (EngineState.FAILED, False, False),
    ],
)
def test_new_requests_are_refused_first_and_then_all_use(state: EngineState, new: bool, begun: bool) -> None:
    admission = admission_in(state)
    assert (admits(admission), is_usable(admission)) == (new, begun)
    assert admission.is_awake == new
    assert (admission.requests, admission.uses) == (0, 0)


def test_a_request_that_fails_has_ended_too() -> None:
    admission = EngineAdmission()
    for context in (admission.request, admission.use):
        with pytest.raises(ZeroDivisionError), context():
            raise ZeroDivisionError
    assert (admission.requests, admission.uses) == (0, 0)


def test_a_refusal_says_when_to_retry() -> None:
    with pytest.raises(EngineAsleep, match="a fine-tuning job trains in its GPU memory") as caught:
        admission_in(EngineState.ASLEEP).check()
    assert caught.value.retry_after == 30


def test_a_refusal_does_not_say_that_a_job_trains_before_it_does() -> None:
    admission = admission_in(EngineState.DRAINING)
    with pytest.raises(EngineAsleep, match="The engine finishes its requests") as caught, admission.request():
        pass
    assert caught.value.retry_after == 30


async def test_work_that_can_wait_waits_until_the_engine_is_awake() -> None:
    admission, done = admission_in(EngineState.DRAINING), asyncio.Event()

    async def work() -> None:
        async with admission.background():
            assert admission.uses == 1
            done.set()

    task = asyncio.create_task(work())
    for state in (EngineState.ASLEEP, EngineState.WAKING):
        await settle(done.is_set)
        assert not done.is_set()
        admission.move(state)
    admission.move(EngineState.AWAKE)
    await task
    assert admission.uses == 0


@pytest.mark.parametrize(("state", "other"), [*itertools.product(EngineState, EngineState)])
def test_only_the_transitions_of_the_picture_are_allowed(state: EngineState, other: EngineState) -> None:
    allowed = {
        ("awake", "draining"),
        ("draining", "awake"),
        ("draining", "asleep"),
        ("asleep", "waking"),
        ("asleep", "failed"),
        ("waking", "awake"),
        ("waking", "failed"),
    }
    admission = admission_in(state)
    if (state, other) in allowed:
        admission.move(other)
        assert admission.state is other
    else:
        with pytest.raises(RuntimeError, match=f"is {state} and can't become {other}"):
            admission.move(other)
        assert admission.state is state
