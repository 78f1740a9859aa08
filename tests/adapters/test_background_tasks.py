import asyncio

import pytest

from loramux_adapters.background_tasks import BackgroundTasks, running_task


async def test_work_is_completed_although_its_caller_is_cancelled() -> None:
    tasks, may_end, results = BackgroundTasks(), asyncio.Event(), list[int]()

    async def work() -> None:
        await may_end.wait()
        results.append(1)

    caller = asyncio.create_task(tasks.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert results == []
    may_end.set()
    await tasks.wait()
    assert results == [1]


async def test_the_result_or_the_error_of_the_work_is_passed_on() -> None:
    async def divide(divisor: int) -> int:
        return 6 // divisor

    tasks = BackgroundTasks()
    assert await tasks.run(divide(2)) == 3
    with pytest.raises(ZeroDivisionError):
        await tasks.run(divide(0))


async def test_waiting_does_not_raise_the_errors_of_tasks() -> None:
    async def fail() -> None:
        raise OSError

    tasks = BackgroundTasks()
    failed = tasks.start(fail())
    await tasks.wait()
    assert isinstance(failed.exception(), OSError)


async def test_closing_cancels_the_tasks_that_do_not_end_in_time() -> None:
    tasks = BackgroundTasks()
    ending, stuck = tasks.start(asyncio.sleep(0)), tasks.start(asyncio.sleep(3600))
    await tasks.close(timeout=0.01)
    await tasks.wait()
    assert not ending.cancelled()
    assert stuck.cancelled()
    await tasks.close(timeout=0.01)


async def test_a_running_task_ends_with_its_context() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            steps.append("started")
            await asyncio.Event().wait()
        finally:
            steps.append("ended")

    async with running_task(work()):
        await asyncio.sleep(0)
        assert steps == ["started"]
    assert steps == ["started", "ended"]
