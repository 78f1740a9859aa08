"""The trainer process as its parent sees it, with scripted trainers."""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from loramux_adapters.finetuning.errors import InsufficientMemory, TrainerCrashed, TrainingError
from loramux_adapters.finetuning.events import Saved, Started, TrainerEvent
from loramux_adapters.finetuning.trainer_process import Priority, TrainerLauncher
from loramux_adapters.finetuning.training_run import TrainingRun
from tests.helpers.adapter_files import BASE
from tests.helpers.fine_tuning_jobs import scripted_launcher


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return TrainingRun(base=tmp_path, description=BASE, data=tmp_path / "data", output=tmp_path / "output")


async def events(launcher: TrainerLauncher, run: TrainingRun, folder: Path) -> list[TrainerEvent]:
    async with launcher.launch(run, folder) as trainer:
        return [event async for event in trainer.events()]


async def test_events_arrive_in_order_and_standard_error_goes_to_the_log(run: TrainingRun, tmp_path: Path) -> None:
    assert await events(scripted_launcher("save_twice"), run, tmp_path) == [Saved(step=1), Saved(step=2)]
    assert (tmp_path / "trainer.log").read_text() == "a warning"


async def test_the_trainer_reads_its_run_from_a_file(run: TrainingRun, tmp_path: Path) -> None:
    await events(scripted_launcher("save_twice"), run, tmp_path)
    assert TrainingRun.read(tmp_path / "run.json") == run


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ("print_noise", "is not an event: b'loading"),
        ("print_long_line", "is not an event"),
        ("print_endless_line", "is not an event"),
        ("report_invalid_event", "is not an event"),
        ("exit_with_message", "exited with code 1:\nout of luck"),
        ("crash_after_starting", r"exited with code 1:\n(.|\n)*ZeroDivisionError"),
        ("kill_itself", "exited with code -9"),
        ("exit_after_long_log", "xxthe end$"),
    ],
)
async def test_a_trainer_that_breaks_has_crashed(run: TrainingRun, tmp_path: Path, behavior: str, reason: str) -> None:
    with pytest.raises(TrainerCrashed, match=reason) as crashed:
        await events(scripted_launcher(behavior), run, tmp_path)
    assert len(str(crashed.value)) < 2500


async def test_a_ctrl_c_at_the_parents_terminal_does_not_reach_the_trainer(run: TrainingRun, tmp_path: Path) -> None:
    async with scripted_launcher("sleep").launch(run, tmp_path) as trainer:
        assert os.getpgid(trainer.process.pid) != os.getpgid(0)
        trainer.kill()


async def test_the_error_that_a_trainer_reports_keeps_its_code(run: TrainingRun, tmp_path: Path) -> None:
    with pytest.raises(InsufficientMemory, match="8 GB are needed"):
        await events(scripted_launcher("fail_for_memory"), run, tmp_path)


async def test_an_error_that_the_trainer_reports_is_not_a_crash(run: TrainingRun, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no chat template") as failed:
        await events(scripted_launcher("fail"), run, tmp_path)
    assert not isinstance(failed.value, TrainerCrashed)


async def test_leaving_the_context_lets_the_trainer_clean_up_and_leaves_no_process(
    run: TrainingRun, tmp_path: Path
) -> None:
    started = time.monotonic()
    async with scripted_launcher("save_and_wait").launch(run, tmp_path) as trainer:
        async for event in trainer.events():
            assert event == Saved(step=1)
            break
    assert run.output.exists()
    assert not psutil.pid_exists(trainer.process.pid)
    assert time.monotonic() - started < 30


async def test_cancelling_the_parents_task_lets_the_trainer_clean_up(run: TrainingRun, tmp_path: Path) -> None:
    """As Ctrl-C does in `loramux train`, which runs in asyncio.run()."""
    saved = asyncio.Event()

    async def work() -> None:
        async with scripted_launcher("save_and_wait").launch(run, tmp_path) as trainer:
            async for _ in trainer.events():
                saved.set()

    task = asyncio.create_task(work())
    await saved.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.output.exists()


async def test_a_trainer_that_ignores_sigterm_is_killed_in_the_end(
    run: TrainingRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_launcher("ignore_sigterm", save_timeout=0.2).launch(run, tmp_path) as trainer:
        async for _ in trainer.events():
            break
    assert not psutil.pid_exists(trainer.process.pid)
    assert caplog.record_tuples == [
        (
            "loramux_adapters.finetuning.trainer_process",
            logging.WARNING,
            "the trainer did not save its state within 0.2 seconds and is killed",
        )
    ]


@pytest.mark.parametrize(
    ("priority", "nice", "scheduler"),
    [("equal", os.nice(0), os.SCHED_OTHER), ("low", 10, os.SCHED_OTHER), ("idle", os.nice(0), os.SCHED_IDLE)],
)
async def test_the_trainer_runs_with_the_chosen_priority(
    run: TrainingRun, tmp_path: Path, priority: Priority, nice: int, scheduler: int
) -> None:
    found = await events(scripted_launcher("report_scheduling", priority=priority), run, tmp_path)
    assert found == [Saved(step=nice), Saved(step=scheduler)]


def test_the_trained_share_is_of_the_base() -> None:
    assert Started(examples=8, steps=1, trained_parameters=2, base_parameters=200).trained_share == 0.01


def test_the_default_command_starts_the_trainers_module() -> None:
    assert TrainerLauncher().command == (sys.executable, "-m", "loramux_adapters.finetuning.trainer")
