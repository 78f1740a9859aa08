"""Starting a server under test as a process of its own, and ending it so that nothing is left of it."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

STARTS_WITHIN_S = 600.0
STOPS_WITHIN_S = 30.0
FOLLOWS_WITHIN_S = 5.0
"""How much longer a server's helpers may live than itself; multiprocessing's end when they see that it is gone."""
POLL_S = 0.05

EngineArguments = Mapping[str, str | int | float | bool]
"""vLLM's arguments by their Python names, such as {"max_loras": 4, "enforce_eager": True}."""


class ServerFailedError(Exception):
    """The server ended before it was ready, was not ready in time, or left processes behind."""


@dataclass(frozen=True)
class ServerSpec:
    """How to start one server. `port` is free when the spec is made, so make it shortly before starting."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    ready_path: str

    @property
    def url(self) -> str:
        """The server's root."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class RunningServer:
    """A server that answers."""

    name: str
    url: str
    start_seconds: float
    """From starting the process to the first 200 at the spec's ready path."""


@dataclass(frozen=True)
class Setup:
    """What two servers have in common when they are compared."""

    base: Path
    adapters: Mapping[str, Path]
    """Folders by the names under which the adapters are served."""
    engine: EngineArguments
    environment: Mapping[str, str]


def stock(setup: Setup) -> ServerSpec:
    """vLLM's own server, with LoRA on if there are adapters.

    The `vllm` command is broken in some builds, so the module is named.
    """
    port = free_port()
    command = [sys.executable, "-m", stock_module(), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model", str(setup.base), "--served-model-name", setup.base.name]
    if setup.adapters:
        command += ["--enable-lora", "--lora-modules", *(f"{name}={path}" for name, path in setup.adapters.items())]
    command += [word for argument, value in setup.engine.items() for word in _option(argument, value)]
    return ServerSpec("stock", tuple(command), setup.environment, port, ready_path="/health")


def loramux(setup: Setup, data_dir: Path) -> ServerSpec:
    """`loramux serve`, set up by its environment variables; the adapters may be registered once it runs."""
    port = free_port()
    roots = sorted({str(path.parent) for path in setup.adapters.values()})
    environment = {
        **setup.environment,
        "LORAMUX_HOST": "127.0.0.1",
        "LORAMUX_PORT": str(port),
        "LORAMUX_BASE": str(setup.base),
        "LORAMUX_DATA_DIR": str(data_dir),
        "LORAMUX_ALLOWED_ROOTS": json.dumps(roots),
        **{f"LORAMUX_ENGINE__{argument.upper()}": json.dumps(value) for argument, value in setup.engine.items()},
    }
    command = (sys.executable, "-m", "loramux_server", "serve")
    return ServerSpec("loramux", command, environment, port, ready_path="/ready")


def stock_module() -> str:
    """The module that is vLLM's server: where 0.32 has it, or 0.26."""
    found = importlib.util.find_spec("vllm")  # which does not import it
    roots = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    old = roots and not any((root / "entrypoints/launchers/api_server/entry.py").exists() for root in roots)
    return "vllm.entrypoints." + ("openai.api_server" if old else "launchers.api_server.entry")


async def register(url: str, adapters: Mapping[str, Path], at_once: int = 1) -> None:
    """Register folders with a running loramux, `at_once` at a time; ServerFailedError if it refuses one."""
    waiting = iter(adapters.items())

    async def one_after_the_other(session: aiohttp.ClientSession) -> None:
        for name, path in waiting:
            body = {"name": name, "source": {"type": "folder", "path": str(path)}}
            async with session.post("/admin/adapters", json=body) as response:
                if response.status != 201:
                    raise ServerFailedError(f"{name} was refused: {await response.text()}")

    async with aiohttp.ClientSession(url) as session:
        await asyncio.gather(*(one_after_the_other(session) for _ in range(at_once)))


@asynccontextmanager
async def running(spec: ServerSpec, log: Path) -> AsyncIterator[RunningServer]:
    """The server of `spec` from ready to gone, its output in `log`. ServerFailedError if it doesn't get or go there."""
    started = time.monotonic()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            # `env` adds to the environment that this process has, which only the server's configuration reads.
            *("env", *(f"{name}={value}" for name, value in spec.environment.items()), *spec.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        await _ready(spec, process, log)
        yield RunningServer(spec.name, spec.url, time.monotonic() - started)
    except BaseException:
        await _stop(process)  # why we stop matters more than what had to be killed
        raise
    if left := await _stop(process):
        raise ServerFailedError(f"{spec.name} left {len(left)} processes behind, which were killed: {', '.join(left)}")


async def _ready(spec: ServerSpec, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise ServerFailedError(
                    f"{spec.name} ended with {process.returncode} before it was ready:\n{_tail(log)}"
                )
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(spec.url + spec.ready_path) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(POLL_S)
    raise ServerFailedError(f"{spec.name} was not ready within {STARTS_WITHIN_S:.0f} s:\n{_tail(log)}")


async def _stop(process: asyncio.subprocess.Process) -> list[str]:
    """End the server as a supervisor would, then kill what is left of its process group, whose names are returned."""
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOPS_WITHIN_S)
    for _ in range(int(FOLLOWS_WITHIN_S / POLL_S)):
        if not group_members(process.pid):
            return []
        await asyncio.sleep(POLL_S)
    left = group_members(process.pid)  # its leader's id names the group
    if left:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return left


def group_members(group: int) -> list[str]:
    """The names of the living processes of a process group."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            name, _, rest = stat.read_text().partition("(")[2].rpartition(") ")
            state, _parent, its_group = rest.split()[:3]
            if int(its_group) == group and state != "Z":
                members.append(name)
    return members


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _option(argument: str, value: str | float) -> list[str]:
    option = "--" + argument.replace("_", "-")
    if isinstance(value, bool):
        return [option] if value else [option.replace("--", "--no-", 1)]
    return [option, str(value)]


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
