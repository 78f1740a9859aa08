"""A line of waiting tasks: first come, first served, and nobody's turn is lost when somebody leaves."""

import asyncio
from collections import deque
from dataclasses import dataclass, field


@dataclass(eq=False)
class Turns:
    """Tasks of one event loop that wait until there may be something for them."""

    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, *, again: bool) -> None:
        """Wait for a turn; who had one in vain (`again`) comes before all others."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.insert(0 if again else len(self._waiting), turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self.wake_next()  # it was our turn, and we go without taking it
            raise

    def wake_next(self) -> None:
        """Give the first in the line its turn."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
