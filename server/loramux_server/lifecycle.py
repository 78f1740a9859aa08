"""A server's life: its socket, its signals, its ends (told to stop, told twice, engine dead, start broken off).

The socket is bound before the engine starts, because a port in use should be told at once and not after a minute.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from loramux_server.errors import CannotStart

ENGINE_DIED = 1
"""The exit code after the engine's death: not 0, so that a supervisor which restarts on failure restarts us."""

_POLL_SECONDS = 0.2
_FAREWELL_SECONDS = 2.0
_UVICORN: dict[str, Any] = {
    "lifespan": "off",
    "log_config": None,
    "access_log": False,
    "timeout_graceful_shutdown": 1,  # seconds that requests get to notice that they were cancelled
}


class PortInUse(CannotStart):
    """The address can't be listened on; the message says which and what to do."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds host:port, not yet listening; port 0 takes any free one. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"can't listen on {host}:{port} ({error.strerror}): stop what listens there, or set LORAMUX_PORT"
        ) from error
    return listener


@contextlib.contextmanager
def interruptible_start() -> Generator[None]:
    """Let SIGTERM and SIGINT break off a start at once, even one that blocks in the engine's constructor.

    asyncio's own SIGINT handler would only cancel a task, which a blocking start does not notice.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: they would close the socket while we still have answers to give."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@dataclass
class Lifecycle:
    """Runs an application until something ends it.

    `drain` is called once when the end has begun: from then on the application must refuse new work by itself, while
    the socket still listens, so that a client learns why.
    """

    app: ASGIApp
    listener: socket.socket
    engine_is_dead: Callable[[], bool]
    drain: Callable[[], None]
    drain_seconds: float
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _stops: int = 0

    async def run(self, started: Callable[[], None]) -> int:
        """Serve; call `started` once connections are taken; return the process's exit code."""
        server = _Server(uvicorn.Config(self.app, **_UVICORN))
        self._listen_to_signals()
        serving = asyncio.create_task(server.serve(sockets=[self.listener]))
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has a flag and no event
            await asyncio.sleep(_POLL_SECONDS / 10)
        started()
        await self._until_stopped(serving)
        self.drain()
        code = ENGINE_DIED if self.engine_is_dead() else 0
        await self._until_quiet(server, _FAREWELL_SECONDS if code else self.drain_seconds)
        code = ENGINE_DIED if self.engine_is_dead() else code
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is still open is cut off on purpose
        server.should_exit = True
        await serving
        return code

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    def stop(self) -> None:
        """End it: the first time when the open requests are through, the second time at once."""
        self._stops += 1
        self._stop.set()

    async def _until_stopped(self, serving: asyncio.Task[None]) -> None:
        while not self._stop.is_set() and not self.engine_is_dead() and not serving.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _POLL_SECONDS)

    async def _until_quiet(self, server: uvicorn.Server, seconds: float) -> None:
        """Until no request is open, `seconds` are over, it was told twice, or the engine died under us."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        was_dead = self.engine_is_dead()
        while server.server_state.tasks and loop.time() < deadline and self._stops < 2:
            if self.engine_is_dead() and not was_dead:
                was_dead, deadline = True, min(deadline, loop.time() + _FAREWELL_SECONDS)
            await asyncio.sleep(_POLL_SECONDS / 4)
