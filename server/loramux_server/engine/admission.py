"""Who may use the engine, which may sleep: then its GPU memory is lent to a trainer.

AWAKE ──> DRAINING ──> ASLEEP ──> WAKING ──> AWAKE
  ^          │            └──────────┴─────> FAILED: the server exits, as it does when the engine dies
  └──────────┘ the job was cancelled, or requests do not end

While the engine is AWAKE, everything is admitted. From DRAINING on, new requests are refused, and what has begun ends.
From ASLEEP on, nothing may touch the engine: its memory is not mapped, and a copy to it would kill the process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from enum import StrEnum

from loramux_adapters.errors import EngineAsleep

POLL_SECONDS = 0.1
_DRAINING = "The engine finishes its requests, to lend its GPU memory to a fine-tuning job: retry later."

UseEngine = Callable[[], AbstractContextManager[None]]
"""`EngineAdmission.use`, or `nullcontext` for an engine that never sleeps."""
AwaitEngine = Callable[[], AbstractAsyncContextManager[None]]
"""`EngineAdmission.background`, or `nullcontext`."""


class EngineState(StrEnum):
    """The states of the engine."""

    AWAKE = "awake"
    DRAINING = "draining"
    ASLEEP = "asleep"
    WAKING = "waking"
    FAILED = "failed"

    def can_become(self, other: "EngineState") -> bool:
        """Whether this transition is allowed."""
        return other in _TRANSITIONS[self]


_TRANSITIONS: dict[EngineState, set[EngineState]] = {
    EngineState.AWAKE: {EngineState.DRAINING},
    EngineState.DRAINING: {EngineState.AWAKE, EngineState.ASLEEP},
    EngineState.ASLEEP: {EngineState.WAKING, EngineState.FAILED},
    EngineState.WAKING: {EngineState.AWAKE, EngineState.FAILED},
    EngineState.FAILED: set(),
}


class EngineAdmission:
    """Admits requests from outside (`request`) and all other work that needs the engine (`use`, `background`)."""

    def __init__(self, poll_seconds: float = POLL_SECONDS) -> None:
        self._poll_seconds = poll_seconds
        self.state = EngineState.AWAKE
        self.requests = 0
        """The requests that were admitted and have not ended."""
        self.uses = 0
        """The other work that has not ended."""

    def move(self, state: EngineState) -> None:
        """Change the state.

        Raises:
            RuntimeError: the transition is not allowed.
        """
        if not self.state.can_become(state):
            raise RuntimeError(f"the engine is {self.state} and can't become {state}")
        self.state = state

    @property
    def is_awake(self) -> bool:
        """Whether new requests are admitted."""
        return self.state is EngineState.AWAKE

    @property
    def refusal(self) -> EngineAsleep:
        """Why a request is not admitted now."""
        return EngineAsleep(_DRAINING) if self.state is EngineState.DRAINING else EngineAsleep()

    @property
    def has_failed(self) -> bool:
        """Whether the engine is lost."""
        return self.state is EngineState.FAILED

    @contextmanager
    def request(self) -> Iterator[None]:
        """Admit one request for as long as the context lasts.

        Raises:
            EngineAsleep: the engine is not awake.
        """
        if not self.is_awake:
            raise self.refusal
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keep the engine from sleeping while the context lasts; for work that a request may have begun.

        Raises:
            EngineAsleep: the engine is asleep.
        """
        self.check()
        self.uses += 1
        try:
            yield
        finally:
            self.uses -= 1

    def check(self) -> None:
        """Check that the engine may be used now.

        Raises:
            EngineAsleep: it is asleep.
        """
        if self.state not in (EngineState.AWAKE, EngineState.DRAINING):
            raise EngineAsleep

    @asynccontextmanager
    async def background(self) -> AsyncIterator[None]:
        """Wait until the engine is awake, and keep it awake while the context lasts; for work that can wait."""
        while not self.is_awake:  # noqa: ASYNC110 - this happens once per job, and needs no event
            await asyncio.sleep(self._poll_seconds)
        with self.use():
            yield
