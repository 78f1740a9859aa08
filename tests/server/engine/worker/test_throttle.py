import sys
import time

import pytest

from loramux_server.engine.worker import throttle as pacing
from loramux_server.engine.worker.throttle import paced


def work(calls: int) -> None:
    for _ in range(calls):
        time.perf_counter()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, each as long as nothing."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setattr(pacing, "BURST_SECONDS", 0.0)
    return made


def test_gentle_work_pauses_again_and_again(pauses: list[float]) -> None:
    with paced(gently=True):
        work(50)
    assert len(pauses) >= 50
    assert set(pauses) == {pacing.PAUSE_SECONDS}


def test_other_work_does_not_pause_nor_does_any_afterwards(pauses: list[float]) -> None:
    with paced(gently=False):
        work(50)
    with pytest.raises(ValueError, match="x"), paced(gently=True):
        raise ValueError("x")
    pauses.clear()
    work(50)
    assert not pauses
    assert sys.getprofile() is None


def test_gentle_work_takes_a_share_of_the_time() -> None:
    began, worked = time.perf_counter(), time.thread_time()
    with paced(gently=True):
        while time.perf_counter() - began < 0.1:
            pass
    assert time.thread_time() - worked < 0.08
