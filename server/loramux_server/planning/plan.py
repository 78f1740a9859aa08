"""The plan of a GPU's memory: what fits on it, and the engine's settings that follow."""

from dataclasses import dataclass, replace
from typing import Any

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.base_memory import BaseMemory
from loramux_server.planning.device import Batch, Device
from loramux_server.planning.parts import (
    Parts,
    adapter_host_bytes,
    engine_parts,
    gpu_count,
    kv_cache_parts,
    power_of_two,
    slot_bytes,
)

TYPICAL_TOKENS = 1024
"""Prompt and answer of a typical request."""
SHORT_TOKENS = 256
"""Those of a short one: no more requests run at a time than fit if all are short."""
MIN_CONTEXT = 2048
"""The shortest context that is of use, for a base that was made for longer ones."""
MAX_SLOTS = 16
MIN_REQUESTS = 16
MAX_HOST_ADAPTERS = 1000
SLOTS_SHARE = 8
"""Slots get an eighth of what is left for them and the KV cache."""
HOST_SHARE = 4
"""Adapters in host memory get a quarter of it."""


@dataclass(frozen=True)
class Wanted:
    """What the base shall serve; None for what is to be chosen."""

    rank: int = 16
    """The largest rank of the adapters, unless the operator has set the engine's `max_lora_rank`."""
    adapters: int | None = None
    context: int | None = None
    requests: int | None = None
    """At a time, each with the whole context."""


@dataclass(frozen=True)
class MemoryPlan:
    """What fits on a GPU; sizes are those of one GPU, if several share the base."""

    device: Device
    base: BaseDescription
    memory: BaseMemory
    wanted: Wanted
    gpus: int
    share: float
    """The engine's `gpu_memory_utilization`."""
    batch: Batch
    slots: int
    parts: Parts
    kv_bytes: int
    """For the KV cache; less than 0 if not even the rest fits."""
    adapter_host_bytes: int
    """Of one adapter, in all workers: each has the whole adapter."""
    host_adapters: int

    @property
    def budget_bytes(self) -> int:
        """What the engine may take; with a KV cache of a chosen size, vLLM heeds no share of the memory."""
        return self.device.free_bytes if self.is_kv_cache_chosen else int(self.share * self.device.total_bytes)

    @property
    def is_kv_cache_chosen(self) -> bool:
        """Whether the operator has set the size of the KV cache."""
        return bool(self.memory.arguments.get("kv_cache_memory_bytes"))

    @property
    def engine_bytes(self) -> int:
        """What the engine takes."""
        return self.parts.total + max(0, self.kv_bytes)

    @property
    def chosen_context(self) -> int | None:
        """The context that was asked for, if any."""
        chosen = int(self.memory.arguments.get("max_model_len") or -1)
        return self.wanted.context or (chosen if chosen > 0 else None)

    @property
    def required_context(self) -> int:
        """The context that must fit."""
        return self.chosen_context or min(self.memory.max_context, MIN_CONTEXT)

    @property
    def context(self) -> int:
        """The context that the engine will have: what was asked for, or the longest that fits."""
        fits = self.memory.longest_request(self.kv_bytes * self.kv_cache_parts)
        return min(self.chosen_context or fits, fits)

    @property
    def kv_cache_parts(self) -> int:
        """How many GPUs have different parts of the KV cache."""
        return kv_cache_parts(self.memory)

    @property
    def typical_tokens(self) -> int:
        """The tokens of a typical request, as far as the context allows it."""
        return min(TYPICAL_TOKENS, max(1, self.context))

    def request_bytes(self, tokens: int) -> int:
        """Return the KV cache of a request on one GPU."""
        return -(-self.memory.request_bytes(tokens) // self.kv_cache_parts)

    def concurrency(self, tokens: int) -> int:
        """Return how many requests of this length run at a time."""
        return min(self.batch.requests, max(0, self.kv_bytes) // max(1, self.request_bytes(tokens)))

    @property
    def fits(self) -> bool:
        """Whether the engine starts with the context that must fit."""
        return self.context >= self.required_context and self.engine_bytes <= self.budget_bytes

    @property
    def arguments(self) -> dict[str, Any]:
        """vLLM's arguments that follow; those that the operator chose override them."""
        chosen: dict[str, Any] = {} if self.device.has_bfloat16 else {"dtype": "float16"}
        chosen |= {
            "gpu_memory_utilization": self.share,
            "max_model_len": self.chosen_context or -1,  # -1: the base's own length, or what fits
        }
        if self.memory.is_quantized_on_load and not self.fits:  # its weights will leave more room than is known here
            return chosen
        if self.slots:
            chosen |= {"max_loras": self.slots, "max_cpu_loras": self.host_adapters}
        if self.batch.requests < self.device.batch.requests:
            chosen["max_num_seqs"] = self.batch.requests
        return chosen


def plan_memory(
    device: Device, base: BaseDescription, memory: BaseMemory, wanted: Wanted, host_bytes: int
) -> MemoryPlan:
    """Return what fits on `device`, next to `host_bytes` of host memory.

    The operator's own arguments, which are in `memory`, are kept.
    """
    wanted = replace(wanted, rank=int(memory.arguments.get("max_lora_rank") or wanted.rank))
    batch = Batch(
        tokens=int(memory.arguments.get("max_num_batched_tokens") or device.batch.tokens),
        requests=int(memory.arguments.get("max_num_seqs") or device.batch.requests),
    )
    plan = _plan_batch(device, base, memory, wanted, host_bytes, batch)
    short = plan.concurrency(SHORT_TOKENS)
    if "max_num_seqs" in memory.arguments or short >= batch.requests:
        return plan
    fewer = replace(batch, requests=min(batch.requests, max(MIN_REQUESTS, power_of_two(short))))
    return _plan_batch(device, base, memory, wanted, host_bytes, fewer)


def _plan_batch(
    device: Device, base: BaseDescription, memory: BaseMemory, wanted: Wanted, host_bytes: int, batch: Batch
) -> MemoryPlan:
    chosen = memory.arguments
    plan = MemoryPlan(
        device=device,
        base=base,
        memory=memory,
        wanted=wanted,
        gpus=gpu_count(memory),
        share=float(chosen.get("gpu_memory_utilization") or device.usable_share),
        batch=batch,
        slots=0,
        parts=engine_parts(base, memory, batch, 0, wanted.rank),
        kv_bytes=0,
        adapter_host_bytes=adapter_host_bytes(base, wanted.rank) * gpu_count(memory),
        host_adapters=0,
    )
    slots = 0 if base.refusal else _slots(plan)
    parts = engine_parts(base, memory, batch, slots, wanted.rank)
    kv_bytes = int(chosen.get("kv_cache_memory_bytes") or plan.budget_bytes - parts.total)
    host_adapters = int(chosen.get("max_cpu_loras") or _host_adapters(plan, slots, host_bytes))
    return replace(plan, slots=slots, parts=parts, kv_bytes=kv_bytes, host_adapters=host_adapters)


def _slots(plan: MemoryPlan) -> int:
    """Return how many slots are worth their memory, of a plan without any."""
    if chosen := plan.memory.arguments.get("max_loras"):
        return int(chosen)
    left = plan.budget_bytes - plan.parts.total - plan.request_bytes(plan.required_context)
    affordable = left // SLOTS_SHARE // max(1, slot_bytes(plan.memory, plan.wanted.rank))
    in_host_memory = int(plan.memory.arguments.get("max_cpu_loras") or MAX_SLOTS)
    return max(1, min(affordable, MAX_SLOTS, in_host_memory, plan.wanted.adapters or MAX_SLOTS))


def _host_adapters(plan: MemoryPlan, slots: int, host_bytes: int) -> int:
    affordable = host_bytes // HOST_SHARE // max(1, plan.adapter_host_bytes)
    return max(slots, min(affordable, MAX_HOST_ADAPTERS))
