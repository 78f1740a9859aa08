"""How vLLM is told to zero blocks; that it helps shows test_corruption.py on the real engine."""

import pytest
from vllm.config import SchedulerConfig
from vllm.v1.kv_cache_interface import KVCacheConfig

from loramux_server.engine.worker import kv_zeroing as clean_blocks
from loramux_server.engine.worker.kv_zeroing import schedule_from_here


def test_a_cache_of_any_model_is_one_that_needs_zeroing() -> None:
    assert KVCacheConfig(num_blocks=1, kv_cache_tensors=[], kv_cache_groups=[]).needs_kv_cache_zeroing


@pytest.mark.parametrize("is_async", [False, True])
def test_vllm_finds_the_scheduler_it_would_have_taken_in_the_module_that_changes_it(is_async: bool) -> None:
    config = SchedulerConfig.default_factory(async_scheduling=is_async)
    own = config.get_scheduler_cls()
    schedule_from_here(config)
    assert config.scheduler_cls.startswith(clean_blocks.__name__)
    assert config.get_scheduler_cls() is own
