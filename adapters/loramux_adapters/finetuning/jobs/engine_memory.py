"""The engine's GPU memory, lent to the trainer of a job: the engine sleeps meanwhile, and always wakes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from loramux_adapters.errors import AdapterError
from loramux_adapters.finetuning.jobs.event_log import JobEventLog

DRAINING = "The engine finishes its requests, to lend its GPU memory to this job; new requests get status 503"
ASLEEP = "The engine is asleep: its GPU memory is free for the training"
AWAKE = "The engine is awake: it serves requests"


class EngineMemory(Protocol):
    """An engine that can free its GPU memory, and take it back."""

    async def free(self) -> None:
        """Let running requests finish, and free the memory. If it is cancelled, the engine is awake again.

        Raises:
            EngineSleepFailed: the memory can't be freed.
        """

    async def restore(self) -> None:
        """Take the memory back, even if the caller is cancelled meanwhile; does nothing if it was not freed.

        Raises:
            EngineLost: that failed; the server will exit.
        """


@dataclass
class MemoryLoan:
    """The memory of an engine during one training; without an engine that lends it, nothing happens."""

    memory: EngineMemory | None
    log: JobEventLog
    is_active: bool = False
    """Whether the engine is asleep."""

    async def begin(self) -> None:
        """Put the engine to sleep.

        Raises:
            AdapterError: the memory can't be freed, or the event can't be recorded.
        """
        if self.memory is not None:
            await self.log.note(DRAINING)
            await self.memory.free()
            self.is_active = True
            await self.log.note(ASLEEP)

    async def end(self) -> None:
        """Wake the engine, if it is asleep.

        Raises:
            EngineLost: that failed.
        """
        if self.memory is not None and self.is_active:
            self.is_active = False
            await self.memory.restore()
            with suppress(AdapterError):  # of a job that was cancelled, for example
                await self.log.note(AWAKE)


@asynccontextmanager
async def borrowed_memory(memory: EngineMemory | None, log: JobEventLog) -> AsyncIterator[MemoryLoan]:
    """Have the engine's memory free while the context lasts, or until `end` is called.

    Raises:
        AdapterError: see `MemoryLoan`.
    """
    loan = MemoryLoan(memory, log)
    try:
        await loan.begin()
        yield loan
    finally:
        await loan.end()
