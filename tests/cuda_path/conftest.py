"""Fixtures of the tests that need an engine of the CUDA path: vLLM's code for CUDA on a CPU, see tests/helpers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import RealServer
from tests.helpers.cuda_path.environment import COMMAND, is_cuda_path
from tests.helpers.engine_bench import EngineBench, engine_bench


@pytest.fixture(scope="session", autouse=True)
def on_the_cuda_path() -> None:
    if not is_cuda_path():
        pytest.fail(f"these tests need a process of their own: run `{COMMAND}`", pytrace=False)


@pytest_asyncio.fixture(loop_scope="session")
async def bench(on_the_cuda_path: None, real: RealServer, tmp_path: Path) -> AsyncIterator[EngineBench]:
    async with engine_bench(real, tmp_path) as bench:
        yield bench
