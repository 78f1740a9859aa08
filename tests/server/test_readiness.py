from types import SimpleNamespace

import pytest

from loramux_server.engine.admission import EngineAdmission, EngineState
from loramux_server.middleware import DrainState
from loramux_server.readiness import Readiness

WAY = (EngineState.DRAINING, EngineState.ASLEEP, EngineState.WAKING)


def readiness(*way: EngineState, errored: bool = False, draining: bool = False) -> Readiness:
    admission, drain = EngineAdmission(), DrainState()
    for state in way:
        admission.move(state)
    if draining:
        drain.start()
    return Readiness(SimpleNamespace(errored=errored), admission, drain)


def test_a_server_with_an_engine_that_is_awake_is_ready() -> None:
    ready = readiness()
    assert (ready.not_ready_reason(), ready.engine_state(), ready.is_engine_dead()) == (None, "awake", False)


@pytest.mark.parametrize("states", [WAY[:1], WAY[:2], WAY])
def test_a_server_whose_engine_sleeps_is_not_ready_and_not_dead(states: tuple[EngineState, ...]) -> None:
    ready = readiness(*states)
    expected = "finishes its requests" if states == WAY[:1] else "asleep"
    assert expected in (ready.not_ready_reason() or "")
    assert (ready.engine_state(), ready.is_engine_dead()) == (states[-1], False)


@pytest.mark.parametrize("ready", [readiness(errored=True), readiness(*WAY, EngineState.FAILED)])
def test_an_engine_that_died_or_does_not_wake_up_is_dead(ready: Readiness) -> None:
    assert (ready.not_ready_reason(), ready.engine_state()) == ("The engine is dead.", "failed")
    assert ready.is_engine_dead()


def test_a_server_that_shuts_down_says_so_first() -> None:
    assert readiness(errored=True, draining=True).not_ready_reason() == "The server is shutting down."
