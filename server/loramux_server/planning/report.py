"""A plan as plain values: for `loramux doctor --json`, and for its tables."""

from typing import Any, Literal

from loramux_server.planning.device import CONTEXT_BYTES
from loramux_server.planning.parts import slot_bytes
from loramux_server.planning.plan import MemoryPlan
from loramux_server.planning.problems import advice, find_problems
from loramux_server.planning.training_needs import EXAMPLE_TOKENS, training_needs

Place = Literal["next to the engine", "while the engine sleeps", "nowhere"]
"""Where a training run has the memory that it needs."""


def plan_report(plan: MemoryPlan, host_bytes: int) -> dict[str, Any]:
    """Return the plan as JSON; sizes are in bytes, on one GPU."""
    device, parts = plan.device, plan.parts
    return {
        "gpu": {
            "name": device.name,
            "memory_bytes": device.total_bytes,
            "free_bytes": device.free_bytes,
            "compute_capability": device.capability and ".".join(map(str, device.capability)),
            "count": plan.gpus,
        },
        "fits": plan.fits,
        "problems": [problem.text for problem in find_problems(plan)],
        "advice": advice(plan, host_bytes),
        "sizes": {
            "weights": parts.weights,
            "slots": parts.slots,
            "activations": parts.activations,
            "cuda_graphs": parts.cuda_graphs,
            "libraries": parts.libraries,
            "kv_cache": plan.kv_bytes,
            "engine": plan.engine_bytes if plan.is_kv_cache_chosen else plan.budget_bytes,
        },
        "dtype": plan.arguments.get("dtype", plan.memory.dtype),
        "quantization": plan.memory.quantization,
        "max_lora_rank": plan.wanted.rank,
        "slots": plan.slots,
        "slot_bytes": slot_bytes(plan.memory, plan.wanted.rank),
        "kv_bytes_per_token": plan.memory.bytes_per_token / plan.kv_cache_parts,
        "context": plan.context,
        "max_context": plan.memory.max_context,
        "concurrent_requests": {
            "typical_tokens": plan.typical_tokens,
            "typical": plan.concurrency(plan.typical_tokens),
            "whole_context": plan.concurrency(max(1, plan.context)),
        },
        "host": {
            "memory_bytes": host_bytes,
            "adapters": plan.host_adapters,
            "adapter_bytes": plan.adapter_host_bytes,
        },
        "engine": plan.arguments,
        "training_example_tokens": EXAMPLE_TOKENS,
        "training": [
            {
                "method": need.method,
                "required_bytes": need.required_bytes,
                "fits": _place(plan, need.required_bytes, host_bytes),
            }
            for need in training_needs(plan.base, plan.wanted.rank)
        ],
    }


def free_for_training(plan: MemoryPlan, *, asleep: bool) -> int:
    """Return what the GPU has free for a trainer: next to the engine, or while it sleeps and keeps only a little."""
    kept = plan.parts.cuda_graphs + plan.parts.libraries if asleep else plan.engine_bytes
    return max(0, plan.device.free_bytes - 2 * CONTEXT_BYTES - kept)


def _place(plan: MemoryPlan, required: int, host_bytes: int) -> Place:
    if required <= free_for_training(plan, asleep=False):
        return "next to the engine"
    adapters = plan.host_adapters * plan.adapter_host_bytes
    can_sleep = host_bytes - adapters >= plan.memory.weight_bytes  # those of all GPUs are in host memory meanwhile
    return "while the engine sleeps" if can_sleep and required <= free_for_training(plan, asleep=True) else "nowhere"
