"""The KV cache's blocks are zeroed before a request gets them.

A freed block keeps its values, and the next request that gets it reads those of positions which it has not written yet,
with a weight of zero. Zero times NaN is NaN, so one adapter that computes NaN would spoil the answers of others, the
base's too. Cleaning up after it comes too late: vLLM gives the block away in its very next step. But it can zero blocks
as it gives them away, and does for models that need it. Importing this module makes it do so for all.
"""

from vllm.config import SchedulerConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig

__all__ = ["AsyncScheduler", "Scheduler", "schedule_from_here"]

KVCacheConfig.needs_kv_cache_zeroing = property(lambda _: True)


def schedule_from_here(config: SchedulerConfig) -> None:
    """Let the process that schedules import this module: the name of its scheduler leads here, to vLLM's own."""
    config.scheduler_cls = f"{__name__}.{config.get_scheduler_cls().__name__}"
