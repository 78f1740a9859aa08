"""Puts the engine to sleep for a training, and wakes it: vLLM frees its GPU memory meanwhile."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from loramux_adapters.finetuning.jobs.errors import EngineLost, EngineSleepFailed
from loramux_server.engine.admission import POLL_SECONDS, EngineAdmission, EngineState

LEVEL = 1
"""vLLM's sleep level: weights go to host memory, the KV cache is dropped."""
CLIENT_SECONDS = 10.0
"""A request that leaves the engine idle for so long only waits for its client, and is not waited for."""
WAKE_ATTEMPTS, WAKE_RETRY_SECONDS = 3, 2.0
"""Another process may still hold memory of the GPU for a moment."""

_DIED = "The engine has failed, and the server exits."
_log = logging.getLogger(__name__)


class EngineSleep:
    """An EngineMemory for jobs: vLLM's `engine`, whose users `admission` knows."""

    def __init__(
        self,
        engine: Any,
        admission: EngineAdmission,
        clock: Callable[[], float] = time.monotonic,
        poll_seconds: float = POLL_SECONDS,
        wake_retry_seconds: float = WAKE_RETRY_SECONDS,
    ) -> None:
        self._engine, self._admission, self._clock = engine, admission, clock
        self._poll_seconds, self._wake_retry_seconds = poll_seconds, wake_retry_seconds
        self._has_slept = False

    async def free(self) -> None:
        """Let running requests finish, and free the memory; see EngineMemory.

        Raises:
            EngineSleepFailed: the host has too little memory for the weights, or vLLM failed and the engine is lost.
            EngineLost: the engine had failed before.
        """
        if self._admission.has_failed:
            raise EngineLost(_DIED)
        self._admission.move(EngineState.DRAINING)
        try:
            await self._check_host_memory()
            await self._drain()
        except BaseException:
            self._admission.move(EngineState.AWAKE)
            raise
        self._admission.move(EngineState.ASLEEP)
        try:
            # `wait`: what has slipped into the engine ends too, and what comes later waits there.
            is_cancelled = await self._finish(self._engine.sleep(level=LEVEL, mode="wait"))
        except Exception as error:
            raise self._lose(EngineSleepFailed("The engine could not free its GPU memory; see its log.")) from error
        self._has_slept = True
        if is_cancelled:
            await self.restore()
            raise asyncio.CancelledError

    async def restore(self) -> None:
        """Take the memory back; see EngineMemory.

        Raises:
            EngineLost: vLLM failed, and the engine is lost.
        """
        if self._admission.state is not EngineState.ASLEEP:
            return
        self._admission.move(EngineState.WAKING)
        try:
            is_cancelled = await self._finish(self._wake_up())
        except Exception as error:
            raise self._lose(EngineLost("The engine could not be woken, and the server exits.")) from error
        self._admission.move(EngineState.AWAKE)
        if is_cancelled:
            raise asyncio.CancelledError

    async def _check_host_memory(self) -> None:
        """Check that the weights fit into the host's memory; once, because vLLM keeps what it took.

        A failure in the middle would leave an engine that neither sleeps nor runs.
        """
        if self._has_slept:
            return
        try:
            workers: list[tuple[int, int]] = await self._engine.collective_rpc("backup_bytes", None, (), {})
        except Exception as error:
            raise EngineLost(_DIED) from error
        needed, free = sum(worker[0] for worker in workers), min(worker[1] for worker in workers)
        if needed > free:
            raise EngineSleepFailed(
                f"To sleep, the engine needs {needed / 1e9:.1f} GB of the host's memory, and {free / 1e9:.1f} GB are "
                "free: add memory, or set LORAMUX_TRAINING__SLEEP=false."
            )

    async def _drain(self) -> None:
        """Wait until nothing needs the engine."""
        idle_since = self._clock()
        while not self._engine.errored and (self._admission.requests or self._is_busy):
            if self._is_busy:
                idle_since = self._clock()
            elif self._clock() - idle_since >= CLIENT_SECONDS:
                return
            await asyncio.sleep(self._poll_seconds)
        if self._engine.errored:
            raise EngineLost(_DIED)

    @property
    def _is_busy(self) -> bool:
        return bool(self._admission.uses or self._engine.output_processor.get_num_unfinished_requests())

    async def _wake_up(self) -> None:
        for _ in range(WAKE_ATTEMPTS - 1):
            try:
                await self._wake_once()
            except Exception:
                if self._engine.errored:
                    raise
                _log.warning("the engine could not be woken; trying again", exc_info=True)
                await asyncio.sleep(self._wake_retry_seconds)
            else:
                return
        await self._wake_once()

    async def _wake_once(self) -> None:
        if not await self._engine.wake_up():
            raise RuntimeError("vLLM is not fully awake")

    async def _finish(self, transition: Coroutine[Any, Any, object]) -> bool:
        """Run a transition to its end; returns whether the caller was cancelled meanwhile.

        Raises:
            Exception: it failed, or the engine died: then vLLM may never answer.
        """
        task, is_cancelled = asyncio.create_task(transition), False
        while not task.done() and not self._engine.errored:
            try:
                await asyncio.wait({task}, timeout=self._poll_seconds)
            except asyncio.CancelledError:
                is_cancelled = True
        if not task.done():
            task.cancel()
            raise RuntimeError(_DIED)
        task.result()
        return is_cancelled

    def _lose(self, error: Exception) -> Exception:
        _log.exception("%s", error)
        self._admission.move(EngineState.FAILED)
        return error
