"""Settings of every test run, and fixtures for tests of several packages, above all the one real engine."""

import faulthandler
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import openai
import pytest
import pytest_asyncio
from _pytest.faulthandler import fault_handler_stderr_fd_key

from loramux_adapters.base_description import BaseDescription
from loramux_server.base_model import ResolvedBase
from tests.helpers.cuda_path.environment import is_cuda_path
from tests.helpers.leftover_threads import describe_thread, leftover_threads

# No deadlines: how long an example takes depends on the machine. Choose the quicker one with --hypothesis-profile=dev.
hypothesis.settings.register_profile("ci", deadline=None)
hypothesis.settings.register_profile("dev", deadline=None, max_examples=10)
hypothesis.settings.load_profile("ci")

# rich takes a console's width from these once, when the console is made; pytest-xdist sets them for its workers.
for variable in ("COLUMNS", "LINES"):
    os.environ.pop(variable, None)

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "adapters" / "loramux_adapters" / "examples"
EXAMPLE_NAMES = ("house-tone", "order-json", "support-intent")

TIMEOUTS = {"engine": 600, "cuda_path": 600, "slow": 300}
"""Seconds for tests with these marks, instead of the `timeout` in pyproject.toml."""

EXIT_STATUS = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """End on SIGTERM as on Ctrl-C: fixtures end the servers and engines that they started."""
    if not hasattr(config, "workerinput"):  # the main process ends the workers of pytest-xdist
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Exempt what the test modules import from garbage collection: vLLM alone costs half a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marks = [mark for mark in TIMEOUTS if item.get_closest_marker(mark)]
        if marks and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUTS[marks[0]]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """End the run if a teardown hangs: after a test's failure, neither pytest-timeout nor pytest has a limit for it."""
    marker = item.get_closest_marker("timeout")
    seconds = marker.args[0] if marker else float(item.config.getini("timeout"))
    stderr = item.config.stash[fault_handler_stderr_fd_key]  # the real one: file descriptor 2 is captured
    faulthandler.dump_traceback_later(seconds, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[EXIT_STATUS] = exitstatus


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit without the threads that would block the interpreter's exit; `no_leftover_threads` has reported them."""
    if leftover_threads():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash.get(EXIT_STATUS, pytest.ExitCode.INTERNAL_ERROR))


@pytest.fixture(scope="session", autouse=True)
def no_leftover_threads() -> Iterator[None]:
    """Fail the last test's teardown if a thread is left that keeps the interpreter from exiting."""
    yield
    if threads := leftover_threads(wait_seconds=5):
        pytest.fail("threads are left after the last test:\n" + "\n".join(map(describe_thread, threads)), pytrace=False)


@dataclass(frozen=True)
class RealServer:
    """A server on the real engine in this process, with room for three adapters in host memory and two in a batch."""

    url: str
    base: BaseDescription
    engine: Any
    server: Any
    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    folder: Path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    """A base without weights, for the fake engine."""
    from tests.helpers.tiny_server import write_base  # imports vLLM, which most tests can do without

    return write_base(tmp_path_factory.mktemp("base") / "tiny")


Models = tuple[ResolvedBase, dict[str, Path], dict[str, Any]]
"""A base, its adapters by name, and vLLM's arguments for the base."""


def demo_models(folder: Path) -> Models:
    from loramux_server.base_model import resolve_base
    from loramux_server.machine import engine_defaults, installed_backend, this_machine

    base = resolve_base("demo", REPOSITORY / ".loramux", progress=print)
    examples = {name: EXAMPLES / name for name in EXAMPLE_NAMES}
    return base, examples, engine_defaults(this_machine(folder), installed_backend(), demo=True)


def small_models(folder: Path) -> Models:
    """Write models that are small enough for Triton's interpreter."""
    from tests.helpers.cuda_path.engine import OPTIONS, write_adapters, write_cuda_path_base

    base = ResolvedBase(write_cuda_path_base(folder / "tiny"), "tiny")
    return base, write_adapters(folder / "examples", EXAMPLE_NAMES), OPTIONS


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealServer]:
    import asyncio

    from loramux_server.adapter_storage import open_storage
    from loramux_server.app import build_server
    from loramux_server.configured_adapters import FRONTEND_DEFAULTS, add_configured
    from loramux_server.described_base import describe_base
    from loramux_server.engine.arguments import engine_arguments
    from loramux_server.engine.grammars.sandbox import grammar_sandbox
    from loramux_server.engine.startup import vllm_engine
    from loramux_server.lifecycle import Lifecycle, bind
    from loramux_server.machine import engine_environment, installed_backend, this_machine
    from loramux_server.metering.pricing import Prices
    from loramux_server.settings import Settings, TrainingSettings, export_engine_environment

    folder = tmp_path_factory.mktemp("real")
    base, examples, suited = small_models(folder) if is_cuda_path() else demo_models(folder)
    prices = Prices.model_validate({"base": {"input": 1, "output": 2}, "gpu_hour": 3600})
    training = TrainingSettings(priority="equal")  # idle, it would get no time next to other busy processes
    settings = Settings(
        data_dir=folder / "data",
        allowed_roots=(EXAMPLES, folder),
        adapters=examples,
        prices=prices,
        training=training,
    )
    before = dict(os.environ)
    export_engine_environment(settings, engine_environment(this_machine(folder), installed_backend()))
    options = suited | FRONTEND_DEFAULTS | {"max_loras": 2, "max_cpu_loras": 3}
    arguments = engine_arguments(base.path, base.name, options)
    storage = open_storage(settings, describe_base(base, settings), base.path)
    async with vllm_engine(arguments) as engine, grammar_sandbox(engine, settings.grammars) as sandbox:
        server = await build_server(settings, storage, engine, arguments, prove=sandbox.prove)
        await add_configured(server.adapter_service, settings, report_progress=print)
        listener, started = bind("127.0.0.1", 0), asyncio.Event()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ready = server.readiness
        life = Lifecycle(
            server.app, listener, ready.is_engine_dead, ready.drain.start, drain_seconds=5, handles_signals=False
        )
        living = asyncio.create_task(life.run(started.set))
        await started.wait()
        async with (
            server.usage_recorder.recording(),
            server.job_supervisor.running(),
            httpx.AsyncClient(base_url=url, timeout=120) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client,
        ):
            yield RealServer(url, storage.base, engine, server, client, http, folder)
        life.stop()
        await living
    os.environ.clear()
    os.environ.update(before)
