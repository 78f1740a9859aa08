"""Makes vLLM zero the blocks of the KV cache before it allocates them to a request.

A freed block keeps its values, and the next request reads those of positions that it has not written yet, with weight
zero. Zero times NaN is NaN, so one adapter that computes NaN would corrupt the answers of others, and of the base.
Zeroing freed blocks would be too late: vLLM may allocate them in its next step. vLLM can zero blocks at allocation, and
does for models that need it; importing this module enables that for all models.

Two processes import it: the scheduler's, by `scheduler_cls`, which `install_scheduler` sets in the API process,
to choose the blocks to zero; and each worker, from `extension`, to zero them.
"""

from vllm.config import SchedulerConfig
from vllm.v1.core.sched import async_scheduler, scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig

import loramux_server.engine.grammars.backends  # noqa: F401 - for the scheduler's process
from loramux_server.engine.work_reports import ReportingScheduler

KVCacheConfig.needs_kv_cache_zeroing = property(lambda _: True)


class Scheduler(ReportingScheduler, scheduler.Scheduler):  # type: ignore[misc] # vLLM is not typed
    """vLLM's scheduler, which also reports unseen work."""


class AsyncScheduler(ReportingScheduler, async_scheduler.AsyncScheduler):  # type: ignore[misc] # as above
    """vLLM's asynchronous scheduler, which also reports unseen work."""


def install_scheduler(config: SchedulerConfig) -> None:
    """Point `scheduler_cls` at this module's subclass of vLLM's scheduler, so the scheduler process imports it."""
    config.scheduler_cls = f"{__name__}.{config.get_scheduler_cls().__name__}"
