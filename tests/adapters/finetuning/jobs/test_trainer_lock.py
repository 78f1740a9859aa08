import asyncio
import sys
from pathlib import Path

from loramux_adapters.finetuning.jobs.trainer_lock import is_trainer_running, trainer_lock, wait_until_released


async def acquire(path: Path) -> bool:
    async with trainer_lock(path, poll_seconds=0.02):
        return True


async def test_the_lock_is_not_released_while_a_trainer_lives_whose_server_was_killed(tmp_path: Path) -> None:
    """As after the server's SIGKILL: its own descriptor is closed, the trainer's is not."""
    path = tmp_path / "lock"
    async with trainer_lock(path) as lock_fd:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import time; time.sleep(60)", pass_fds=(lock_fd,)
        )
    waiting = asyncio.create_task(acquire(path))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    process.kill()
    await process.wait()
    assert await asyncio.wait_for(waiting, 5)


async def test_a_released_lock_is_free(tmp_path: Path) -> None:
    assert await acquire(tmp_path / "new folder" / "lock")
    assert await asyncio.wait_for(acquire(tmp_path / "new folder" / "lock"), 5)


async def test_a_server_can_wait_for_the_trainer_of_the_last_one(tmp_path: Path) -> None:
    """It still has the GPU's memory, which an engine that starts needs."""
    path = tmp_path / "lock"
    assert not is_trainer_running(path)
    await wait_until_released(path, 60)
    async with trainer_lock(path):
        assert is_trainer_running(path)
        waiting = asyncio.create_task(wait_until_released(path, 60, poll_seconds=0.01))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)
    assert not is_trainer_running(path)


async def test_another_server_that_goes_on_training_is_not_waited_for_forever(tmp_path: Path) -> None:
    async with trainer_lock(tmp_path / "lock"):
        await asyncio.wait_for(wait_until_released(tmp_path / "lock", 0.05, poll_seconds=0.01), 5)
