"""Lets mixture-of-experts bases serve adapters on a CPU, of all modules but the experts.

With adapters, vLLM 0.32 chooses the experts' kernels for GPUs on every machine: on a CPU the engine starts, and the
first request stops it, even one to the base. Its kernels for CPUs can't apply adapters. So the experts are computed by
those, without adapters; intake refuses adapters that change an expert.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from vllm.lora.layers import FusedMoE3DWithLoRA, FusedMoEWithLoRA
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig


def install_cpu_experts() -> None:
    """Make vLLM compute experts as it does without adapters, and not wrap them; for processes of a CPU engine only."""
    FusedMoEConfig.__post_init__ = _without_lora(FusedMoEConfig.__post_init__)
    for layer in (FusedMoEWithLoRA, FusedMoE3DWithLoRA):
        layer.can_replace_layer = classmethod(lambda *_, **__: False)


def _without_lora(initialize: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(initialize)
    def initialize_without_lora(config: Any) -> None:
        config.is_lora_enabled = False
        initialize(config)

    return initialize_without_lora
