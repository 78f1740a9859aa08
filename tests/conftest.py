"""What tests of several rooms share, above all the one real engine: it takes most of a minute to start."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import openai
import pytest
import pytest_asyncio

from loramux_adapters.models import BaseSpec
from loramux_server.base_model import ResolvedBase

# How long an example takes says something of the machine, not of the code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "adapters" / "loramux_adapters" / "examples"
EXAMPLE_NAMES = ("house-tone", "order-json", "support-intent")


@dataclass(frozen=True)
class RealServer:
    """A server on the real engine in this process, with room for three adapters in host memory and two in a batch."""

    url: str
    base: BaseSpec
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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealServer]:
    import asyncio

    from loramux_server.app import FRONTEND_DEFAULTS, add_configured, compose, open_shelf
    from loramux_server.base_model import resolve_base
    from loramux_server.engine.arguments import engine_arguments
    from loramux_server.engine.startup import vllm_engine
    from loramux_server.lifecycle import Lifecycle, bind
    from loramux_server.machine import engine_defaults, engine_environment, installed_backend, this_machine
    from loramux_server.metering.pricing import Prices
    from loramux_server.settings import Settings, export_engine_environment

    folder = tmp_path_factory.mktemp("real")
    examples = {name: EXAMPLES / name for name in EXAMPLE_NAMES}
    prices = Prices.model_validate({"base": {"input": 1, "output": 2}, "gpu_hour": 3600})
    settings = Settings(data_dir=folder / "data", allowed_roots=(EXAMPLES, folder), adapters=examples, prices=prices)
    machine, backend = this_machine(folder), installed_backend()
    before = dict(os.environ)
    export_engine_environment(settings, engine_environment(machine, backend))
    base = resolve_base("demo", REPOSITORY / ".loramux", progress=print)
    suited = engine_defaults(machine, backend, demo=True) | FRONTEND_DEFAULTS
    arguments = engine_arguments(base.path, base.name, suited | {"max_loras": 2, "max_cpu_loras": 3})
    shelf = open_shelf(settings, base)
    async with vllm_engine(arguments) as engine:
        server = await compose(settings, shelf, engine, arguments)
        await add_configured(server.library, settings, tell=print)
        listener, started = bind("127.0.0.1", 0), asyncio.Event()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        life = Lifecycle(server.app, listener, lambda: engine.errored, server.drain.begin, drain_seconds=5)
        living = asyncio.create_task(life.run(started.set))
        await started.wait()
        async with (
            server.books.kept(),
            server.jobs.working(),
            httpx.AsyncClient(base_url=url, timeout=120) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client,
        ):
            yield RealServer(url, shelf.base, engine, server, client, http, folder)
        life.stop()
        await living
    os.environ.clear()
    os.environ.update(before)
