"""The trainer's process as the server has it: what it says, and how it ends."""

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from loramux_adapters.finetuning.errors import TooLittleMemory, TrainerCrashed, TrainingError
from loramux_adapters.finetuning.events import Event, Saved
from loramux_adapters.finetuning.jobs import trainer_process as child
from loramux_adapters.finetuning.jobs.trainer_lock import seat
from loramux_adapters.finetuning.jobs.trainer_process import Priority, trainer
from tests.helpers.fine_tuning_jobs import ScriptedRun

EMPTY = Path("nowhere")


def run(script: str) -> ScriptedRun:
    return ScriptedRun(EMPTY, "base", EMPTY, None, EMPTY, script=script)


async def said(folder: Path, script: str, priority: Priority = "low") -> list[Event]:
    async with seat(folder / "seat") as taken, trainer(run(script), folder / "log", taken, priority) as running:
        return [event async for event in running.events()]


async def test_what_it_says_comes_line_by_line_and_its_own_words_go_to_the_log(tmp_path: Path) -> None:
    script = 'say(event="saved", step=1); sys.stderr.write("a warning"); say(event="saved", step=2)'
    assert await said(tmp_path, script) == [Saved(step=1), Saved(step=2)]
    assert (tmp_path / "log").read_text() == "a warning"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('print("loading...")', "is not an event: b'loading"),
        ('print("x" * 200_000)', "is not an event"),
        ('sys.stdout.write("x" * 200_000)', "is not an event"),
        ('say(event="saved", step="1; drop table")', "is not an event"),
        ('sys.exit("out of luck")', "ended with code 1:\nout of luck"),
        ("os.kill(os.getpid(), 9)", "ended with code -9"),
        ('sys.stderr.write("x" * 9000 + "the end"); sys.exit(3)', "xxthe end$"),
    ],
)
async def test_a_trainer_that_breaks_has_crashed(tmp_path: Path, script: str, reason: str) -> None:
    with pytest.raises(TrainerCrashed, match=reason) as crashed:
        await said(tmp_path, script)
    assert len(str(crashed.value)) < 2500


async def test_a_ctrl_c_at_the_servers_terminal_does_not_reach_the_trainer(tmp_path: Path) -> None:
    async with seat(tmp_path / "seat") as taken, trainer(run("time.sleep(60)"), tmp_path / "log", taken, "low") as one:
        assert os.getpgid(one.process.pid) != os.getpgid(0)
        one.kill()


async def test_why_a_trainer_gave_up_keeps_its_code(tmp_path: Path) -> None:
    with pytest.raises(TooLittleMemory, match="8 GB are needed"):
        await said(tmp_path, 'say(event="failed", message="8 GB are needed", code="training_memory_short")')


async def test_a_trainer_that_gives_up_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no chat template") as failed:
        await said(tmp_path, 'say(event="failed", message="no chat template"); sys.exit(2)')
    assert not isinstance(failed.value, TrainerCrashed)


async def test_whoever_goes_away_lets_the_trainer_save_and_leaves_no_process(tmp_path: Path) -> None:
    script = """
def stop(*_):
    open(MARK, "w").close(); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
say(event="saved", step=1)
time.sleep(60)
""".replace("MARK", repr(str(tmp_path / "saved")))
    async with seat(tmp_path / "seat") as taken, trainer(run(script), tmp_path / "log", taken, "low") as running:
        async for event in running.events():
            assert event == Saved(step=1)
            break
    assert (tmp_path / "saved").exists()
    assert not psutil.pid_exists(running.process.pid)


async def test_a_trainer_that_does_not_hear_is_killed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "SAVING_SECONDS", 0.2)
    script = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); say(event="saved", step=1); time.sleep(60)'
    with pytest.raises(TimeoutError):
        async with seat(tmp_path / "seat") as taken, trainer(run(script), tmp_path / "log", taken, "low") as running:
            async for _ in running.events():
                break
    assert not psutil.pid_exists(running.process.pid)


async def test_nobody_sits_down_while_a_trainer_lives_whose_server_let_go(tmp_path: Path) -> None:
    """As after the server's SIGKILL: its own descriptor is closed, the trainer's is not."""
    async with seat(tmp_path / "seat") as taken:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import time; time.sleep(60)", pass_fds=(taken,)
        )
    next_one = asyncio.create_task(_sit(tmp_path / "seat"))
    await asyncio.sleep(0.7)
    assert not next_one.done()
    process.kill()
    await process.wait()
    assert await asyncio.wait_for(next_one, 5)


async def _sit(path: Path) -> bool:
    async with seat(path):
        return True


@pytest.mark.parametrize(("priority", "nice"), [("low", 10), ("equal", 0)])
async def test_a_trainer_claims_what_it_may(tmp_path: Path, priority: Priority, nice: int) -> None:
    script = 'time.sleep(0.3); say(event="saved", step=os.nice(0))'
    assert await said(tmp_path, script, priority) == [Saved(step=nice)]


async def test_an_idle_trainer_has_what_is_left_over(tmp_path: Path) -> None:
    script = 'time.sleep(0.3); say(event="saved", step=os.sched_getscheduler(0))'
    assert await said(tmp_path, script, "idle") == [Saved(step=os.SCHED_IDLE)]
