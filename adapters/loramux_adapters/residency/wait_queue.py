"""A line of tasks that wait for versions: first come, first served, and all who wait for the same one together."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from loramux_adapters.models import VersionId

T = TypeVar("T")


@dataclass(eq=False)
class Turns(Generic[T]):
    """Tasks of one event loop, in the order they came; each is handed a T that it has to give back."""

    _waiting: dict[asyncio.Future[T], VersionId] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(not turn.done() for turn in self._waiting)

    @property
    def first(self) -> VersionId | None:
        """The version that was waited for first, or None if nobody waits."""
        return next((version for turn, version in self._waiting.items() if not turn.done()), None)

    def join(self, version: VersionId) -> asyncio.Future[T]:
        """Go to the end of the line; `wait` has to follow before anything else is awaited."""
        turn: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = version
        return turn

    async def wait(self, turn: asyncio.Future[T], give_back: Callable[[T], None]) -> T:
        """Wait to be served; who is cancelled between being served and waking up gives back what it was handed."""
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                give_back(turn.result())
            raise
        finally:
            del self._waiting[turn]

    def serve(self, version: VersionId, hand_out: Callable[[], T]) -> None:
        """Hand one out to each who waits for the version."""
        for turn, wanted in self._waiting.items():
            if wanted == version and not turn.done():
                turn.set_result(hand_out())
