"""Fair admission to vLLM's engine: the window that suits its configuration, and whose work a run is."""

from typing import Any

from prometheus_client import CollectorRegistry

from loramux_adapters.models import VersionId
from loramux_server.fairness.admission import FairAdmission
from loramux_server.fairness.metrics import AdmissionMetrics
from loramux_server.fairness.priority import from_number
from loramux_server.fairness.scheduler import FairScheduler, Flow, Weights
from loramux_server.fairness.window import EngineWindow, WindowSize
from loramux_server.request_context import RequestContext
from loramux_server.settings.schema import FairnessSettings

OWN_KEY = "loramux"
"""Stands for a key in the work of the server itself, such as the evaluation of a job."""


def build_fair_admission(engine: Any, settings: FairnessSettings, registry: CollectorRegistry) -> FairAdmission:
    """Return the admission to `engine`; if fairness is off, one that admits everything at once."""
    if not settings.enabled:
        return FairAdmission(None)
    scheduler = FairScheduler(
        EngineWindow(window_size(engine)),
        slack=float(engine.model_config.max_model_len),
        weights=Weights(settings.key_weights, settings.adapter_weights),
        queue_tokens=settings.queue_tokens,
    )
    return FairAdmission(scheduler, AdmissionMetrics(registry))


def window_size(engine: Any) -> WindowSize:
    """Return what the engine, with all of its data-parallel ranks, can have in one step."""
    config = engine.vllm_config
    ranks, lora = config.parallel_config.data_parallel_size, config.lora_config
    return WindowSize(
        sequences=ranks * config.scheduler_config.max_num_seqs,
        prompt_tokens=ranks * config.scheduler_config.max_num_batched_tokens,
        versions=lora.max_loras if lora is not None else 1,
    )


def flow_of(context: RequestContext, version: VersionId | None, priority: int = 0) -> Flow:
    """Return whose work a run of this request is; `priority` is vLLM's, which a header may have set."""
    key = context.charge_to or (context.principal.key_id if context.principal is not None else OWN_KEY)
    return Flow(key, version.name if version else None, from_number(priority) if priority else context.priority)
