import sys
import time

import pytest

from loramux_server.engine import throttle
from loramux_server.engine.throttle import throttled


def work(calls: int) -> None:
    for _ in range(calls):
        time.perf_counter()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, without waiting."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setattr(throttle, "BURST_SECONDS", 0.0)
    return made


def test_throttled_work_pauses_regularly(pauses: list[float]) -> None:
    with throttled(enabled=True):
        work(50)
    assert len(pauses) >= 50
    assert set(pauses) == {throttle.PAUSE_SECONDS}


def test_work_does_not_pause_when_disabled_or_after_the_context(pauses: list[float]) -> None:
    with throttled(enabled=False):
        work(50)
    with pytest.raises(ValueError, match="x"), throttled(enabled=True):
        raise ValueError("x")
    pauses.clear()
    work(50)
    assert not pauses
    assert sys.getprofile() is None


def test_throttled_work_uses_a_fraction_of_the_time() -> None:
    began, worked = time.perf_counter(), time.thread_time()
    with throttled(enabled=True):
        while time.perf_counter() - began < 0.1:
            pass
    assert time.thread_time() - worked < 0.08
