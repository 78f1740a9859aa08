"""An engine that falls asleep and wakes up when a test says so, and fails on what would kill vLLM's."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from loramux_server.engine.admission import EngineAdmission


class SleepyEngine:
    """The part of vLLM's AsyncLLM that sleep needs; `answer` ends the call that waits."""

    def __init__(self) -> None:
        self.admission = EngineAdmission(poll_seconds=0)
        self.errored = False
        self.unfinished = 0
        self.backup = [(8, 9, True)]
        self.backup_error: Exception | None = None
        self.is_mapped = True
        """Whether its memory may be touched: not from the beginning of its sleep to the end of its waking."""
        self.calls: list[str] = []
        self.is_instant = False
        self.waiting: asyncio.Future[Any] | None = None
        self.output_processor = SimpleNamespace(get_num_unfinished_requests=lambda: self.unfinished)

    async def collective_rpc(self, method: str, _timeout: None, _args: tuple[()], _kwargs: dict[str, Any]) -> Any:
        """Return the host memory that each worker needs, what is free, and whether it is kept."""
        assert method == "backup_bytes"
        if self.errored:
            raise RuntimeError("the engine is dead")
        if self.backup_error:
            raise self.backup_error
        return self.backup

    async def sleep(self, level: int, mode: str) -> None:
        """Fall asleep; nothing may use the engine now."""
        assert (level, mode) == (1, "wait")
        assert not (self.unfinished or self.admission.uses)
        self.is_mapped = False
        await self._called("sleep")

    async def wake_up(self) -> bool:
        """Wake up."""
        result = await self._called("wake")
        self.is_mapped = result is not False
        return self.is_mapped

    async def _called(self, name: str) -> Any:
        self.calls.append(name)
        if self.is_instant:
            return None
        self.waiting = asyncio.get_running_loop().create_future()
        return await self.waiting

    def answer(self, result: Any = None) -> None:
        """End the call that waits: with an exception, or a result."""
        waiting, self.waiting = self.waiting, None
        if waiting is None or waiting.done():
            return
        if isinstance(result, Exception):
            waiting.set_exception(result)
        else:
            waiting.set_result(result)


async def settle(condition: Callable[[], bool] = lambda: False) -> None:
    """Let all tasks run until none can go on, or the condition is true."""
    for _ in range(30):
        if condition():
            return
        await asyncio.sleep(0)
