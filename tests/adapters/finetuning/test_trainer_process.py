import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from loramux_adapters.finetuning.errors import TrainerCrashed, TrainingError
from loramux_adapters.finetuning.events import Failed, Finished, Started, Step
from loramux_adapters.finetuning.trainer_process import TrainingRun, train

STARTED = Started(examples=8, steps=1, trained_parameters=2, base_parameters=200)
STEP = Step(step=1, steps=1, loss=0.5, tokens=64, seconds_left=0)
FINISHED = Finished(size=1024, seconds=2)


@dataclass(frozen=True)
class ScriptedRun(TrainingRun):
    """A trainer that is a few lines of Python."""

    script: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script]


def run(script: str) -> ScriptedRun:
    nowhere = Path("unused")
    return ScriptedRun(nowhere, "base", nowhere, nowhere, nowhere, script=script)


def say(*events: Started | Step | Finished | Failed) -> str:
    return "\n".join(f"print({event.model_dump_json()!r}, flush=True)" for event in events)


def test_events_are_handed_on_in_their_order() -> None:
    assert list(train(run(say(STARTED, STEP, FINISHED)))) == [STARTED, STEP, FINISHED]


def test_the_trained_share_is_of_the_base() -> None:
    assert STARTED.trained_share == 0.01


def test_the_trainers_reason_is_the_users() -> None:
    script = say(Failed(message="the base has no chat template")) + "\nraise SystemExit(2)"
    with pytest.raises(TrainingError, match="the base has no chat template") as failed:
        list(train(run(script)))
    assert not isinstance(failed.value, TrainerCrashed)


def test_a_crash_is_told_with_the_trainers_last_words() -> None:
    with pytest.raises(TrainerCrashed, match=r"code 1:\n(.|\n)*ZeroDivisionError"):
        list(train(run(say(STARTED) + "\n1 / 0")))


def test_a_killed_trainer_is_a_crash() -> None:
    with pytest.raises(TrainerCrashed, match="code -9"):
        list(train(run("import os; os.kill(os.getpid(), 9)")))


def test_noise_where_events_belong_is_an_error() -> None:
    with pytest.raises(TrainerCrashed, match="not an event"):
        list(train(run("print('loading...')")))


def test_giving_up_stops_the_trainer_and_waits_for_its_cleaning_up(tmp_path: Path) -> None:
    script = f"""
import signal, sys, time
from pathlib import Path
def clean(*_):
    time.sleep(0.2)
    Path({str(tmp_path / "cleaned")!r}).touch()
    sys.exit(130)
signal.signal({int(signal.SIGTERM)}, clean)
{say(STARTED)}
time.sleep(60)
"""
    began = time.monotonic()
    events = train(run(script))
    assert next(events) == STARTED
    events.close()
    assert (tmp_path / "cleaned").exists()
    assert time.monotonic() - began < 30
