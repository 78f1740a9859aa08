"""Leaves the head of the base without adapters on a GPU.

vLLM 0.32 computes the logits of prompts with one row per token, but looks up adapters by request: there its kernels
take the adapters of other requests, and read and write beyond the end of their arrays, even for requests whose
adapters have no head. Without adapters on the head, that code does not run.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from vllm.lora import model_manager


def install_gpu_heads() -> None:
    """Make vLLM's LoRA manager skip the head; for processes of a GPU's engine only."""
    for name in ("is_supported_lora_module", "is_in_target_modules"):
        setattr(model_manager, name, _without_head(getattr(model_manager, name)))


def _without_head(is_adapted: Callable[..., bool]) -> Callable[..., bool]:
    @wraps(is_adapted)
    def is_adapted_and_no_head(module_name: str, *args: Any, **kwargs: Any) -> bool:
        return "lm_head" not in module_name and is_adapted(module_name, *args, **kwargs)

    return is_adapted_and_no_head
