"""Puts the engine to sleep for a training, and wakes it: vLLM frees its GPU memory meanwhile."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from loramux_adapters.finetuning.jobs.errors import EngineBusy, EngineLost, EngineSleepFailed
from loramux_server.engine.admission import POLL_SECONDS, EngineAdmission, EngineState

LEVEL = 1
"""vLLM's sleep level: weights go to host memory, the KV cache is dropped."""
CLIENT_SECONDS = 10.0
"""A request that leaves the engine idle for so long only waits for its client, and is not waited for."""
DRAIN_SECONDS = 120.0
"""Longest time that new requests are refused for those that run; then they are served, and the job waits."""
BUSY_RETRY_SECONDS = 300.0
WAKE_ATTEMPTS, WAKE_RETRY_SECONDS = 3, 2.0
"""Another process may still hold memory of the GPU for a moment."""

_BUSY = (
    f"Requests have run for {DRAIN_SECONDS:.0f} seconds and have not ended: new ones are served again, and the job "
    f"tries again after {BUSY_RETRY_SECONDS:.0f} seconds."
)
_DIED = "The engine has failed, and the server exits."
_log = logging.getLogger(__name__)


async def _do_nothing() -> None:
    pass


class EngineSleep:
    """An EngineMemory for jobs: vLLM's `engine`, whose users `admission` knows.

    `on_awake` is called each time the engine has woken: for work that failed because it slept.
    """

    def __init__(
        self,
        engine: Any,
        admission: EngineAdmission,
        clock: Callable[[], float] = time.monotonic,
        poll_seconds: float = POLL_SECONDS,
        wake_retry_seconds: float = WAKE_RETRY_SECONDS,
        on_awake: Callable[[], Awaitable[None]] = _do_nothing,
    ) -> None:
        self._engine, self._admission, self._clock = engine, admission, clock
        self._poll_seconds, self._wake_retry_seconds = poll_seconds, wake_retry_seconds
        self._on_awake = on_awake
        self._keeps_backup = False

    async def free(self) -> None:
        """Let running requests finish, and free the memory; see EngineMemory.

        Raises:
            EngineSleepFailed: the host has too little memory for the weights, or vLLM failed and the engine is lost.
            EngineBusy: requests run for more than DRAIN_SECONDS.
            EngineLost: the engine had failed before.
        """
        if self._admission.has_failed:
            raise EngineLost(_DIED)
        self._admission.move(EngineState.DRAINING)
        try:
            keeps_backup = await self._check_host_memory()
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
        self._keeps_backup = keeps_backup
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
        try:
            await self._on_awake()
        except Exception:  # noqa: BLE001 - the engine is awake, and the job has to go on
            _log.exception("what had waited for the engine has failed")
        if is_cancelled:
            raise asyncio.CancelledError

    async def _check_host_memory(self) -> bool:
        """Check that the weights fit into the host's memory; returns whether it is kept after waking, once it is taken.

        A failure in the middle would leave an engine that neither sleeps nor runs.
        """
        if self._keeps_backup:
            return True
        try:
            workers: list[tuple[int, int, bool]] = await self._engine.collective_rpc("backup_bytes", None, (), {})
        except Exception as error:
            if self._engine.errored:
                raise EngineLost(_DIED) from error
            _log.exception("the host memory that a sleep takes is not known")
            raise EngineSleepFailed("The engine can't say what memory its sleep takes; see the log.") from error
        needed, free = sum(worker[0] for worker in workers), min(worker[1] for worker in workers)
        if needed > free:
            raise EngineSleepFailed(
                f"To sleep, the engine needs {needed / 1e9:.1f} GB of the host's memory, and {free / 1e9:.1f} GB are "
                "free: add memory, or set LORAMUX_TRAINING__SLEEP=false."
            )
        return all(worker[2] for worker in workers)

    async def _drain(self) -> None:
        """Wait until nothing needs the engine."""
        begun_at = idle_since = self._clock()
        while not self._engine.errored and (self._admission.requests or self._is_busy):
            if self._is_busy:
                idle_since = self._clock()
                if idle_since - begun_at >= DRAIN_SECONDS:
                    raise EngineBusy(_BUSY, retry_after=BUSY_RETRY_SECONDS)
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
