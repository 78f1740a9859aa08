"""Loading versions into the engine: verification, and cleanup after errors."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.errors import StoreError
from loramux_adapters.models import AdapterName, Digest, VersionId
from loramux_server.base_model import ResolvedBase
from loramux_server.engine.adapter_loader import EngineLoader
from loramux_server.engine.fake import FakeEngine
from loramux_server.engine.lora_directory import LoraRequests
from tests.helpers.tiny_server import small_engine

TONE = VersionId(AdapterName("tone"), Digest("0123456789ab"))
INTENT = VersionId(AdapterName("intent"), Digest("ba9876543210"))


class Resolver:
    """A NameResolver in which every version has a folder."""

    def resolve(self, name: str, split_key: str | None) -> VersionId | None:
        return None

    def path(self, version: VersionId) -> Path:
        return Path("/nowhere") / version.name


def sound(version: VersionId) -> None:
    """Accept the files."""


def corrupt(version: VersionId) -> None:
    raise StoreError(f"The files of {version} are not what was accepted.")


def loader_of(engine: Any, verify: Any = sound) -> EngineLoader:
    return EngineLoader(engine, LoraRequests(Resolver(), "tiny"), verify)


@pytest.fixture
def engine(tiny_base: ResolvedBase) -> FakeEngine:
    return small_engine(tiny_base)


def has_nothing(engine: FakeEngine) -> bool:
    return not (engine.loaded or engine.loading)


async def test_what_is_loaded_can_be_unloaded(engine: FakeEngine) -> None:
    engine.seconds_per_load = 0.02
    loader = loader_of(engine)
    await loader.load(TONE)
    await loader.load(INTENT)
    assert await loader.slots() == {TONE, INTENT}
    await loader.unload(TONE)
    assert await loader.slots() == {INTENT}


async def test_files_are_loaded_while_they_are_verified_and_committed_afterwards(engine: FakeEngine) -> None:
    checked = threading.Event()
    loading = asyncio.create_task(loader_of(engine, lambda _: checked.wait(10)).load(TONE))
    while not engine.loading:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # long enough to be prepared
    assert not engine.loaded
    checked.set()
    await loading
    assert list(engine.loaded.values()) == [str(TONE)]


async def test_while_requests_run_files_are_verified_first_and_loading_is_throttled(engine: FakeEngine) -> None:
    engine.running = 1
    loads_at_check: list[int] = []
    await loader_of(engine, lambda _: loads_at_check.append(len(engine.loading))).load(TONE)
    assert (loads_at_check, engine.throttled_loads) == ([0], 1)
    engine.running = 0
    await loader_of(engine).load(INTENT)
    assert engine.throttled_loads == 1


async def test_changed_files_are_never_loaded(engine: FakeEngine) -> None:
    with pytest.raises(StoreError):
        await loader_of(engine, corrupt).load(TONE)
    assert has_nothing(engine)
    assert not engine.loads


async def test_a_failed_load_leaves_nothing_and_can_be_retried(engine: FakeEngine) -> None:
    loader = loader_of(engine)
    engine.refused_loads.add(str(TONE))
    with pytest.raises(RuntimeError, match="refused"):
        await loader.load(TONE)
    assert has_nothing(engine)
    engine.refused_loads.clear()
    await loader.load(TONE)
    assert await loader.slots() == {TONE}


async def test_corrupt_files_are_the_reported_error_if_the_engine_fails_too(engine: FakeEngine) -> None:
    engine.refused_loads.add(str(TONE))
    with pytest.raises(StoreError):
        await loader_of(engine, corrupt).load(TONE)


@pytest.mark.parametrize("seconds", [0.001, 10.0])
async def test_a_cancelled_load_leaves_nothing(engine: FakeEngine, seconds: float) -> None:
    engine.seconds_per_load = seconds
    checked = threading.Event()
    loading = asyncio.create_task(loader_of(engine, lambda _: checked.wait(10)).load(TONE))
    while not engine.loading:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    loading.cancel()
    checked.set()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert has_nothing(engine)


async def test_a_version_is_committed_only_when_every_worker_is_ready(tiny_base: ResolvedBase) -> None:
    """With tensor parallelism, all workers must run the same adapters."""
    workers = [small_engine(tiny_base), small_engine(tiny_base)]
    workers[1].seconds_per_load = 0.05

    class Both:
        output_processor = workers[0]

        async def collective_rpc(self, *call: Any) -> list[Any]:
            answers = [answer for worker in workers for answer in await worker.collective_rpc(*call)]
            assert len(workers[0].loaded) == len(workers[1].loaded)
            return answers

    loader = loader_of(Both())
    await loader.load(TONE)
    assert await loader.slots() == {TONE}
    workers[1].refused_loads.add(str(INTENT))
    with pytest.raises(RuntimeError, match="refused"):
        await loader.load(INTENT)
    assert not any(worker.loading for worker in workers)
    assert await loader.slots() == {TONE}
