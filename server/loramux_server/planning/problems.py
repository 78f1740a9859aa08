"""What speaks against a plan, in sentences, and what would help."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from loramux_server.planning.device import GIB, MIN_CONTEXT_BYTES
from loramux_server.planning.parts import slot_bytes
from loramux_server.planning.plan import MemoryPlan, plan_memory

_QUANTIZED = (("8-bit weights (FP8, INT8)", 0.55), ("4-bit weights (AWQ, GPTQ)", 0.32))
"""The size of quantized weights relative to 16 bits, with their scales and the layers that stay as they are."""


@dataclass(frozen=True)
class Problem:
    """Why the engine will not start as planned."""

    text: str
    is_certain: bool = True
    """Whether it follows from exact sizes alone; the others depend on estimates."""


def find_problems(plan: MemoryPlan) -> list[Problem]:
    """Return what speaks against the plan, the most fundamental first; empty if it fits."""
    return [*_dtype_problems(plan), *_share_problems(plan), *_memory_problems(plan)]


def _dtype_problems(plan: MemoryPlan) -> Iterator[Problem]:
    dtype, capability = plan.memory.arguments.get("dtype"), plan.device.capability
    if dtype in ("float32", "float"):
        yield Problem(
            "dtype=float32 can't be served with adapters on a GPU: vLLM's kernels for adapters take float16 and "
            "bfloat16; leave LORAMUX_ENGINE__DTYPE unset"
        )
    if dtype == "bfloat16" and not plan.device.has_bfloat16:
        yield Problem(
            f"{plan.device.name} has no bfloat16 (it came with compute capability 8.0): leave LORAMUX_ENGINE__DTYPE "
            "unset, or use float16"
        )
    needed = plan.memory.min_capability
    if capability and needed and capability[0] * 10 + capability[1] < needed:
        yield Problem(
            f"{plan.memory.quantization} weights need a GPU with compute capability {needed // 10}.{needed % 10}, and "
            f"{plan.device.name} has {capability[0]}.{capability[1]}"
        )


def _share_problems(plan: MemoryPlan) -> Iterator[Problem]:
    size = int(plan.share * plan.device.total_bytes)
    if size > plan.device.free_bytes - MIN_CONTEXT_BYTES:
        yield Problem(
            f"gpu_memory_utilization={plan.share:g} asks for {gib(size)} of {plan.device.name}, of which "
            f"{gib(plan.device.free_bytes)} are free: set at most {plan.device.free_share:g}, or stop what uses it",
            is_certain=size > plan.device.free_bytes,
        )


def _memory_problems(plan: MemoryPlan) -> Iterator[Problem]:
    if not plan.fits:
        yield Problem(_shortage(plan), is_certain=_exact_bytes(plan) > plan.budget_bytes)
    elif plan.wanted.requests and plan.concurrency(plan.context) < plan.wanted.requests:
        yield Problem(
            f"{plan.concurrency(plan.context)} and not {plan.wanted.requests} requests with {plan.context:,} tokens "
            f"run at a time: each takes {gib(plan.request_bytes(plan.context))} of KV cache, for which there are "
            f"{gib(plan.kv_bytes)}",
            is_certain=False,
        )


def _exact_bytes(plan: MemoryPlan) -> int:
    """Return what the engine takes at least: weights, slots and KV cache, without what is estimated."""
    chosen = int(plan.memory.arguments.get("max_model_len") or -1)
    kv_bytes = int(plan.memory.arguments.get("kv_cache_memory_bytes") or plan.request_bytes(max(1, chosen)))
    weights = 0 if plan.memory.is_quantized_on_load else plan.parts.weights
    return weights + plan.parts.slots // plan.gpus + kv_bytes


def _shortage(plan: MemoryPlan) -> str:
    context = plan.required_context
    if context > plan.memory.request_samples[-1][0]:
        return f"{plan.base.name} was made for {plan.memory.max_context:,} tokens of context, not for {context:,}"
    if plan.is_kv_cache_chosen and plan.context < context:
        return f"kv_cache_memory_bytes={plan.kv_bytes} holds {plan.context:,} tokens of context, and not {context:,}"
    request = plan.request_bytes(context)
    kv_bytes = int(plan.memory.arguments.get("kv_cache_memory_bytes") or request)
    needed = plan.parts.total + kv_bytes
    in_16_bits = " before they are quantized" if plan.memory.is_quantized_on_load else ""
    parts = [
        f"{gib(plan.parts.weights)} of weights{in_16_bits}",
        f"{gib(plan.parts.slots)} of slots ({plan.slots} for ranks up to {plan.wanted.rank})" if plan.slots else "",
        f"{gib(kv_bytes)} of KV cache" + (f" for one request with {context:,} tokens" if kv_bytes <= request else ""),
        f"about {gib(plan.parts.activations + plan.parts.cuda_graphs + plan.parts.libraries)} for the engine itself",
    ]
    return (
        f"{plan.base.name} needs {gib(needed)} of {plan.device.name}: {', '.join(filter(None, parts))}; the engine can "
        f"have {gib(plan.budget_bytes)} of its {gib(plan.device.total_bytes)}"
    )


def advice(plan: MemoryPlan, host_bytes: int) -> list[str]:
    """Return what would let the base fit; empty if it does."""
    return [] if plan.fits else list(_advice(plan, host_bytes))


def _advice(plan: MemoryPlan, host_bytes: int) -> Iterator[str]:
    idle = replace(plan.device, free_bytes=plan.device.total_bytes)
    if plan_memory(idle, plan.base, plan.memory, plan.wanted, host_bytes).fits:
        yield f"stop what uses {gib(plan.device.total_bytes - plan.device.free_bytes)} of {plan.device.name}"
    if plan.chosen_context and plan.context >= 1:
        yield f"a context of at most {plan.context:,} tokens: LORAMUX_ENGINE__MAX_MODEL_LEN=-1 takes what fits"
    free = plan.device.free_share
    if free > plan.share and _with_arguments(plan, host_bytes, gpu_memory_utilization=free).fits:
        yield f"LORAMUX_ENGINE__GPU_MEMORY_UTILIZATION={free:g}: all that is free, which leaves nothing for training"
    if plan.slots > 1 and _with_arguments(plan, host_bytes, max_loras=1).fits:
        size = gib(slot_bytes(plan.memory, plan.wanted.rank))
        yield f"fewer slots or a lower rank: LORAMUX_ENGINE__MAX_LORAS=1; a slot takes {size}"
    if not plan.memory.quantization:
        yield from _quantized(plan, host_bytes)
    for gpus in (2, 4, 8):
        if gpus > plan.gpus and _with_arguments(plan, host_bytes, tensor_parallel_size=gpus).fits:
            yield f"{gpus} such GPUs: LORAMUX_ENGINE__TENSOR_PARALLEL_SIZE={gpus}"
            return


def _quantized(plan: MemoryPlan, host_bytes: int) -> Iterator[str]:
    for name, size in _QUANTIZED:
        weights = int(plan.memory.weight_bytes * size)
        memory = plan.memory.model_copy(update={"weight_bytes": weights})
        smaller = plan_memory(plan.device, plan.base, memory, plan.wanted, host_bytes)
        if smaller.fits:
            yield f"this base with {name}, about {gib(weights)}: a context of {smaller.context:,} tokens fits then"
            return


def _with_arguments(plan: MemoryPlan, host_bytes: int, **arguments: float) -> MemoryPlan:
    memory = plan.memory.model_copy(update={"arguments": {**plan.memory.arguments, **arguments}})
    return plan_memory(plan.device, plan.base, memory, plan.wanted, host_bytes)


def gib(size: int) -> str:
    """Return a size for people."""
    return f"{size / GIB:.1f} GiB" if abs(size) >= GIB // 10 else f"{size / (1 << 20):.0f} MiB"
