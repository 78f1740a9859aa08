"""Socket, signals and shutdown: after a signal, after a second signal, after the engine died, during the start.

The socket is bound before the engine starts, so that a port in use is reported immediately and not after a minute.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from loramux_server.errors import CannotStart
from loramux_server.forced_exit import EXIT_SECONDS, exit_within
from loramux_server.transport.limits import ConnectionLimits
from loramux_server.transport.protocol import LimitedProtocol
from loramux_server.transport.tls import ReloadingTls

EXIT_INTERRUPTED = 130
"""Exit code after a signal during the start, as of programs that SIGINT ends."""
EXIT_ENGINE_DIED = 1
"""Exit code after the engine died; not 0, so that a process supervisor restarts the server."""

_POLL_SECONDS = 0.2
_ERROR_RESPONSE_SECONDS = 2.0
_UVICORN: dict[str, Any] = {
    "lifespan": "off",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "ws": "none",
    "timeout_graceful_shutdown": 1,  # seconds for requests to handle their cancellation
}


class PortInUse(CannotStart):
    """The address can't be listened on; the message names it and says how to fix it."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to host:port, not yet listening; port 0 picks a free one.

    Raises:
        PortInUse: the address can't be bound.

    """
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
    """Make SIGTERM and SIGINT raise KeyboardInterrupt, even while the engine's constructor blocks.

    asyncio's own SIGINT handler only cancels a task, which has no effect on a blocked start.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        exit_within(EXIT_SECONDS, EXIT_INTERRUPTED)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which would close the socket before the last responses."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@dataclass
class Lifecycle:
    """Runs an application until a signal or the engine's failure.

    `refuse_new_requests` is called once at the start of the shutdown: from then on the application must do so, while
    the socket still listens, so that clients get an error response.
    """

    app: ASGIApp
    listener: socket.socket
    is_engine_dead: Callable[[], bool]
    refuse_new_requests: Callable[[], None]
    drain_seconds: float
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    tls: ReloadingTls | None = None
    handles_signals: bool = True
    _stop_requested: asyncio.Event = field(default_factory=asyncio.Event)
    _stop_count: int = 0

    async def run(self, on_started: Callable[[], None]) -> int:
        """Serve; call `on_started` once connections are accepted; return the process's exit code."""
        server = _Server(self._configuration())
        if self.handles_signals:
            self._handle_signals()
        serving = asyncio.create_task(server.serve(sockets=[self.listener]))
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has a flag and no event
            await asyncio.sleep(_POLL_SECONDS / 10)
        on_started()
        await self._wait_for_stop(serving)
        self.refuse_new_requests()
        code = EXIT_ENGINE_DIED if self.is_engine_dead() else 0
        await self._wait_for_requests(server, _ERROR_RESPONSE_SECONDS if code else self.drain_seconds)
        code = EXIT_ENGINE_DIED if self.is_engine_dead() else code
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # remaining requests are cancelled on purpose
        server.should_exit = True
        await serving
        return code

    def _configuration(self) -> uvicorn.Config:
        protocol: Any = partial(LimitedProtocol, limits=self.limits)
        tls = self.tls
        factory = None if tls is None else lambda _config, _default: tls.context
        return uvicorn.Config(self.app, http=protocol, ssl_context_factory=factory, **_UVICORN)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    def stop(self) -> None:
        """Shut down: on the first call after the open requests have finished, on the second immediately."""
        self._stop_count += 1
        self._stop_requested.set()

    async def _wait_for_stop(self, serving: asyncio.Task[None]) -> None:
        while not self._stop_requested.is_set() and not self.is_engine_dead() and not serving.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_requested.wait(), _POLL_SECONDS)

    async def _wait_for_requests(self, server: uvicorn.Server, seconds: float) -> None:
        """Wait until no request is open, `seconds` have passed, `stop` was called twice, or the engine died."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        was_dead = self.is_engine_dead()
        while server.server_state.tasks and loop.time() < deadline and self._stop_count < 2:
            if self.is_engine_dead() and not was_dead:
                was_dead, deadline = True, min(deadline, loop.time() + _ERROR_RESPONSE_SECONDS)
            await asyncio.sleep(_POLL_SECONDS / 4)
