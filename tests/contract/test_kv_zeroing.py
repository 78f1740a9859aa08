"""Zeroing of KV cache blocks is enabled in vLLM; test_corruption.py tests its effect on the real engine."""

import pytest
from vllm.config import SchedulerConfig
from vllm.v1.kv_cache_interface import KVCacheConfig

from loramux_server.engine.work_reports import ReportingScheduler
from loramux_server.engine.worker import kv_zeroing
from loramux_server.engine.worker.kv_zeroing import install_scheduler


def test_the_cache_of_every_model_needs_zeroing() -> None:
    assert KVCacheConfig(num_blocks=1, kv_cache_tensors=[], kv_cache_groups=[]).needs_kv_cache_zeroing


@pytest.mark.parametrize("is_async", [False, True])
def test_vllm_imports_its_scheduler_from_the_module_that_enables_zeroing_and_reports_work(is_async: bool) -> None:
    config = SchedulerConfig.default_factory(async_scheduling=is_async)
    own = config.get_scheduler_cls()
    install_scheduler(config)
    assert config.scheduler_cls.startswith(kv_zeroing.__name__)
    installed = config.get_scheduler_cls()
    assert issubclass(installed, own)
    assert installed.update_from_output is ReportingScheduler.update_from_output
