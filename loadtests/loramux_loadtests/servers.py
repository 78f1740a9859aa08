"""Starts the servers that are measured as processes, and stops them with all their children."""

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

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 30.0
CHILDREN_TIMEOUT_S = 5.0
"""How long child processes may outlive their server; multiprocessing's helpers exit when they notice its end."""
POLL_INTERVAL_S = 0.05

EngineArguments = Mapping[str, str | int | float | bool]
"""vLLM arguments by their Python names, such as {"max_loras": 4, "enforce_eager": True}."""


class ServerFailedError(Exception):
    """The server exited before it was ready, was not ready in time, or left processes behind."""


@dataclass(frozen=True)
class ServerSpec:
    """How to start one server. `port` is free when the spec is made: make it right before the start."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    ready_path: str

    @property
    def url(self) -> str:
        """The root URL of the server."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    name: str
    url: str
    start_seconds: float
    """Seconds from starting the process to the first 200 at the spec's `ready_path`."""


@dataclass(frozen=True)
class ServerSetup:
    """The common setup of the servers that are compared: base, adapters, vLLM arguments, environment."""

    base: Path
    adapters: Mapping[str, Path]
    """Folders by adapter name."""
    engine: EngineArguments
    environment: Mapping[str, str]


def stock_spec(setup: ServerSetup) -> ServerSpec:
    """Return how to start vLLM's own server, with LoRA enabled if there are adapters.

    It names the module because the `vllm` command is broken in some builds.
    """
    port = free_port()
    command = [sys.executable, "-m", stock_module(), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model", str(setup.base), "--served-model-name", setup.base.name]
    if setup.adapters:
        command += ["--enable-lora", "--lora-modules", *(f"{name}={path}" for name, path in setup.adapters.items())]
    command += [part for argument, value in setup.engine.items() for part in _command_line_option(argument, value)]
    return ServerSpec("stock", tuple(command), setup.environment, port, ready_path="/health")


def loramux_spec(setup: ServerSetup, data_dir: Path) -> ServerSpec:
    """Return how to start `loramux serve`. It may read the adapters' folders; register them when it is ready."""
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
    """Return the module of vLLM's server, for vLLM 0.33, 0.32 or 0.26."""
    found = importlib.util.find_spec("vllm")  # does not import it
    roots = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
    old = roots and not any((root / "entrypoints/launchers/api_server/entry.py").exists() for root in roots)
    return "vllm.entrypoints." + ("openai.api_server" if old else "launchers.api_server.entry")


async def register_adapters(url: str, adapters: Mapping[str, Path], concurrency: int = 1) -> None:
    """Register adapters with a running loramux, `concurrency` at a time.

    Raises:
        ServerFailedError: loramux rejects one.
    """
    waiting = iter(adapters.items())

    async def worker(session: aiohttp.ClientSession) -> None:
        for name, path in waiting:
            body = {"name": name, "source": {"type": "folder", "path": str(path)}}
            async with session.post("/admin/adapters", json=body) as response:
                if response.status != 201:
                    raise ServerFailedError(f"loramux rejected the adapter {name}: {await response.text()}")

    async with aiohttp.ClientSession(url) as session:
        await asyncio.gather(*(worker(session) for _ in range(concurrency)))


@asynccontextmanager
async def running(spec: ServerSpec, log: Path) -> AsyncIterator[RunningServer]:
    """Start a server, wait until it is ready, and stop it at the end. Its output goes to the file `log`.

    Raises:
        ServerFailedError: it did not start, or left processes behind.
    """
    started = time.monotonic()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            # `env` adds variables to the environment of this process.
            *("env", *(f"{name}={value}" for name, value in spec.environment.items()), *spec.command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        await _wait_until_ready(spec, process, log)
        yield RunningServer(spec.name, spec.url, time.monotonic() - started)
    except BaseException:
        await _stop(process)  # this error matters more than processes that had to be killed
        raise
    if left := await _stop(process):
        raise ServerFailedError(f"{spec.name} left {len(left)} processes behind, which were killed: {', '.join(left)}")


async def _wait_until_ready(spec: ServerSpec, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise ServerFailedError(
                    f"{spec.name} exited with code {process.returncode} before it was ready:\n{_tail(log)}"
                )
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(spec.url + spec.ready_path) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(POLL_INTERVAL_S)
    raise ServerFailedError(f"{spec.name} was not ready within {START_TIMEOUT_S:.0f} s:\n{_tail(log)}")


async def _stop(process: asyncio.subprocess.Process) -> list[str]:
    """Send SIGTERM and wait, then kill what is left of the process group; return the names of killed processes."""
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    for _ in range(int(CHILDREN_TIMEOUT_S / POLL_INTERVAL_S)):
        if not group_members(process.pid):
            return []
        await asyncio.sleep(POLL_INTERVAL_S)
    left = group_members(process.pid)  # the process is the leader of its group
    if left:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return left


def group_members(group: int) -> list[str]:
    """Return the names of the processes in a process group, without zombies."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has exited
            name, _, rest = stat.read_text().partition("(")[2].rpartition(") ")
            state, _parent, its_group = rest.split()[:3]
            if int(its_group) == group and state != "Z":
                members.append(name)
    return members


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _command_line_option(argument: str, value: str | float) -> list[str]:
    option = "--" + argument.replace("_", "-")
    if isinstance(value, bool):
        return [option] if value else [option.replace("--", "--no-", 1)]
    return [option, str(value)]


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
