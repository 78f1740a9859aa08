"""The worker's part in the engine's sleep, on vLLM's own classes without a GPU."""

import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import device_allocator
from vllm.device_allocator import AllocationData, cumem
from vllm.device_allocator.sleep_mode_backend import CuMemBackend
from vllm.lora.model_manager import AdapterLRUCache
from vllm.platforms import current_platform
from vllm.v1.worker import gpu_worker
from vllm.v1.worker.gpu.model_runner import GPUModelRunner as RunnerV2
from vllm.v1.worker.gpu_model_runner import GPUModelRunner as RunnerV1
from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

from loramux_server.engine.worker import sleep
from loramux_server.engine.worker.sleep import DROPPED, SleepMixin, install_refresh

pytestmark = pytest.mark.slow  # it imports vLLM's workers


class FakeWorker(SleepMixin):
    """A worker with a KV cache of three blocks, and adapter 7 in the first of two slots."""

    def __init__(self) -> None:
        evicted: list[int] = []
        active: AdapterLRUCache[None] = AdapterLRUCache(2, evicted.append)
        active[7] = None
        self.adapters = SimpleNamespace(
            _active_adapters=active, lora_index_to_id=[7, None], lora_slots=2, _last_mapping=1, _last_slot_layout=1
        )
        self.model_runner = SimpleNamespace(
            kv_caches=[torch.full((3, 4), torch.nan), [torch.full((2,), 5, dtype=torch.uint8), torch.ones(1)]],
            lora_manager=SimpleNamespace(_adapter_manager=self.adapters),
        )
        self.woken: list[Any] = []

    def wake_up(self, tags: list[str] | None = None) -> None:
        assert torch.isnan(self.model_runner.kv_caches[0]).all()
        self.woken.append(tags)


def test_a_worker_that_wakes_up_has_a_cache_of_zeros_and_empty_slots() -> None:
    """GPU: block 0 pads the tables of all requests, and NaN times a weight of zero is NaN."""

    class Worker(FakeWorker):
        pass

    install_refresh(Worker)
    worker = Worker()
    worker.wake_up(None)
    first, (second, third) = worker.model_runner.kv_caches
    assert [tensor.count_nonzero() for tensor in (first, second, third)] == [0, 0, 0]
    assert worker.adapters.lora_index_to_id == [None, None]
    assert len(worker.adapters._active_adapters) == 0
    assert (worker.adapters._last_mapping, worker.woken) == (None, [None])


def test_a_base_without_adapters_wakes_up_too() -> None:
    worker = FakeWorker()
    del worker.model_runner.lora_manager
    worker.refresh_after_sleep()
    assert worker.model_runner.kv_caches[0].count_nonzero() == 0


def test_a_cache_in_eight_bits_can_be_zeroed() -> None:
    worker = FakeWorker()
    worker.model_runner.kv_caches = [torch.ones(4).to(torch.float8_e4m3fn)]
    worker.refresh_after_sleep()
    assert worker.model_runner.kv_caches[0].float().count_nonzero() == 0


def test_vllms_worker_has_what_the_refresh_needs() -> None:
    assert [*inspect.signature(gpu_worker.Worker.wake_up).parameters] == ["self", "tags"]
    for runner in (RunnerV1, RunnerV2):
        assert "self.kv_caches" in inspect.getsource(runner)
        assert issubclass(runner, LoRAModelRunnerMixin)
    assert "self.lora_manager" in inspect.getsource(LoRAModelRunnerMixin)


@pytest.mark.parametrize(("is_pinned", "size"), [(True, (4 << 20) + (1 << 20)), (False, (3 << 20) + (1 << 20))])
def test_the_host_memory_of_a_sleep_is_that_of_the_pools_that_vllm_keeps(
    is_pinned: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pinned memory comes in powers of two, and stays; in WSL2, it is not pinned by default."""
    pieces = {1: ("weights", 3 << 20), 2: ("kv_cache", 1 << 40), 3: ("runtime", 1 << 20), 4: ("workspace", 1 << 40)}
    allocator = SimpleNamespace(
        pointer_to_data={number: AllocationData((0, size, number, 0), tag) for number, (tag, size) in pieces.items()}
    )
    monkeypatch.setattr(device_allocator, "get_mem_allocator_instance", lambda: allocator)
    monkeypatch.setattr(current_platform, "is_cuda_alike", lambda: True, raising=False)
    monkeypatch.setattr(sleep, "PIN_MEMORY", is_pinned)
    needed, free, is_kept = FakeWorker().backup_bytes()
    assert (needed, is_kept) == (size, is_pinned)
    assert free > 0


def test_vllm_keeps_a_sleep_in_pinned_memory_where_we_say_so() -> None:
    source = inspect.getsource(cumem)
    assert "from vllm.utils.torch_utils import PIN_MEMORY" in source
    assert "pin_memory=PIN_MEMORY" in source


def test_a_cpu_needs_no_memory_to_sleep() -> None:
    assert FakeWorker().backup_bytes()[0] == 0


def test_vllm_keeps_all_pools_but_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM: level 1 keeps weights, runtime state and CUDA graphs; the KV cache and the workspace are dropped."""
    kept: list[tuple[str, ...]] = []
    allocator = SimpleNamespace(sleep=lambda offload_tags: kept.append(offload_tags))
    monkeypatch.setattr(device_allocator, "get_mem_allocator_instance", lambda: allocator)
    CuMemBackend().suspend(1)
    used = set(re.findall(r'_maybe_get_memory_pool_context\((?:tag=)?"(\w+)"', inspect.getsource(gpu_worker)))
    assert "weights" in used
    assert used - set(kept[0]) == set(DROPPED)
