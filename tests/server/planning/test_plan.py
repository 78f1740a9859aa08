"""Plans for eight GPUs and six bases, compared with arithmetic on numbers that are written out here."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from loramux_server.planning.plan import MemoryPlan, Wanted, plan_memory
from tests.helpers.gpu_plans import GIB, GPUS, MIB, SHAPES, Shape, gpu

HOST = 64 * GIB


def plan(gpu_name: str, base: str, wanted: Wanted | None = None, host: int = HOST, **arguments: object) -> MemoryPlan:
    description = SHAPES[base].describe(**arguments)
    assert description.memory is not None
    return plan_memory(GPUS[gpu_name], description, description.memory, wanted or Wanted(), host)


class Numbers(NamedTuple):
    """What the sizes of a base come to, by hand."""

    weights: int  # bytes
    slot_per_rank: int  # 2 bytes x (inputs + outputs of all linear layers and of the embedding)
    kv_per_token: int  # 2 (K and V) x layers x KV heads x head_dim x 2 bytes
    values_per_token: int  # hidden + 3 x inner: the input of the MLP, its gate and up, and their product
    hidden: int
    layers: int
    vocabulary: int
    max_context: int


BASES = {
    "0.5B": Numbers(988_065_536, 1_405_440, 12_288, 15_488, 896, 24, 151_936, 32_768),
    "1.5B": Numbers(3_087_428_608, 2_615_040, 28_672, 28_416, 1536, 28, 151_936, 32_768),
    "3B": Numbers(6_425_499_648, 3_301_888, 114_688, 27_648, 3072, 28, 128_256, 131_072),
    "8B": Numbers(16_060_522_496, 5_507_584, 131_072, 47_104, 4096, 32, 128_256, 131_072),
    "8B AWQ": Numbers(5_727_854_592, 5_507_584, 131_072, 47_104, 4096, 32, 128_256, 131_072),
    "70B": Numbers(141_107_412_992, 26_159_616, 327_680, 94_208, 8192, 80, 128_256, 131_072),
}
MEMORY_MIB = {
    "T4": (15_360, 15_360), "L4": (23_034, 23_034), "RTX 4090": (24_564, 23_500), "A10G": (23_028, 23_028),
    "L40S": (46_068, 46_068), "A100 80": (81_920, 81_920), "H100": (81_559, 81_559), "H200": (143_771, 143_771),
}  # fmt: skip
"""Total and free."""
STEPS = dict.fromkeys(GPUS, (2048, 256)) | {"H100": (8192, 1024), "H200": (8192, 1024)}
"""Tokens and requests of vLLM's largest step."""


@pytest.mark.parametrize("base", SHAPES)
@pytest.mark.parametrize("gpu_name", GPUS)
def test_a_plan_is_what_arithmetic_says(gpu_name: str, base: str) -> None:
    """GPU-4, GPU-13: context, slots and concurrent requests for eight GPUs and six bases."""
    found, numbers = plan(gpu_name, base), BASES[base]
    total, free = (mib * 1_048_576 for mib in MEMORY_MIB[gpu_name])
    percent = min(92, (free - 671_088_640) * 100 // total)  # 640 MiB for CUDA itself
    budget = total * percent // 100
    assert found.share == percent / 100
    assert abs(found.budget_bytes - budget) <= 1

    tokens, requests = STEPS[gpu_name]
    others = 536_870_912 + numbers.layers * 16_777_216  # libraries, and 16 MiB of graphs per layer
    others += tokens * 2 * (numbers.values_per_token + 4 * numbers.hidden)
    rest = budget - numbers.weights - others - requests * numbers.vocabulary * 16
    slot = 16 * numbers.slot_per_rank
    slots = max(1, min(16, (rest - 2048 * numbers.kv_per_token) // 8 // slot))
    short = max(0, rest - slots * slot) // (256 * numbers.kv_per_token)
    if short < requests:  # then fewer requests run at a time, and their logits take less
        while requests // 2 >= max(16, short):
            requests //= 2
        rest = budget - numbers.weights - others - requests * numbers.vocabulary * 16
        slots = max(1, min(16, (rest - 2048 * numbers.kv_per_token) // 8 // slot))
    kv_cache = rest - slots * slot
    context = max(0, min(numbers.max_context, kv_cache // numbers.kv_per_token))

    assert (found.slots, found.batch.requests) == (slots, requests)
    assert abs(found.kv_bytes - kv_cache) <= 1
    assert abs(found.context - context) <= 16 if context >= 16 else found.context == 0
    assert found.fits == (context >= 2048)
    if context >= 2048:
        assert abs(found.concurrency(1024) - min(requests, kv_cache // (1024 * numbers.kv_per_token))) <= 1


def test_the_table_of_what_fits() -> None:
    """GPU-4: no context means that the weights, or the weights with the engine's own memory, do not fit."""
    contexts = {name: [plan(name, base).context for base in SHAPES] for name in GPUS}
    assert {name: [round(context / 1000) for context in row] for name, row in contexts.items()} == {
        #            0.5B 1.5B  3B   8B  AWQ  70B
        "T4":       [33, 33, 51, 0, 49, 0],
        "L4":       [33, 33, 116, 31, 101, 0],
        "RTX 4090": [33, 33, 128, 39, 112, 0],
        "A10G":     [33, 33, 116, 31, 101, 0],
        "L40S":     [33, 33, 131, 131, 131, 0],
        "A100 80":  [33, 33, 131, 131, 131, 0],
        "H100":     [33, 33, 131, 131, 131, 0],
        "H200":     [33, 33, 131, 131, 131, 0],
    }  # fmt: skip


def test_an_8b_base_starts_on_24_gib_although_its_longest_context_takes_16() -> None:
    """GPU-4: vLLM refuses the start with the base's own 131,072 tokens."""
    found = plan("RTX 4090", "8B")
    assert found.request_bytes(131_072) == 16 * GIB > found.kv_bytes
    assert found.fits
    assert found.arguments["max_model_len"] == -1


def test_a_desktops_share_is_what_is_free() -> None:
    """GPU-4: vLLM refuses 0.92 of the memory of a GPU whose screen has a tenth of it."""
    device = gpu("RTX 4090", 24_576, (8, 9), free_mib=22_118)
    base = SHAPES["3B"].describe()
    assert base.memory is not None
    found = plan_memory(device, base, base.memory, Wanted(), HOST)
    assert found.arguments["gpu_memory_utilization"] == 0.87  # (22,118 - 640) / 24,576 = 0.8739
    assert found.budget_bytes <= device.free_bytes - 640 * MIB


@pytest.mark.parametrize(("gpu_name", "dtype"), [("T4", "float16"), ("L4", None), ("H100", None)])
def test_a_gpu_without_bfloat16_gets_float16(gpu_name: str, dtype: str | None) -> None:
    assert plan(gpu_name, "0.5B").arguments.get("dtype") == dtype


def test_slots_follow_the_rank() -> None:
    """GPU-13: a slot of rank 64 takes four times the memory of one of rank 16."""
    small, large = plan("L4", "8B", Wanted(rank=16)), plan("L4", "8B", Wanted(rank=64))
    assert small.parts.slots // small.slots == 16 * 5_507_584
    assert large.parts.slots // large.slots == 64 * 5_507_584
    assert 1 <= large.slots < small.slots <= 16


def test_no_more_slots_than_adapters() -> None:
    assert plan("H100", "8B", Wanted(adapters=3)).slots == 3


def test_adapters_in_host_memory_are_pinned_in_powers_of_two() -> None:
    """GPU-13: Llama-3.1-8B, rank 16, per layer: 7 x A and 7 x B of 2 bytes a value."""
    attention = [4096, 4096, 4096, 1024, 4096, 1024, 4096, 4096]  # A and B of q, k, v, o
    mlp = [4096, 16_384, 4096, 16_384, 16_384, 4096]  # 14,336 is rounded up
    found = plan("L4", "8B")
    assert found.adapter_host_bytes == 32 * 16 * 2 * sum(attention + mlp)
    assert found.host_adapters == 16 * GIB // found.adapter_host_bytes
    assert plan("L4", "8B", host=GIB).host_adapters == plan("L4", "8B").slots  # never fewer than slots
    assert plan("L4", "0.5B", host=4096 * GIB).host_adapters == 1000


@pytest.mark.parametrize(
    ("argument", "value", "found"),
    [
        ("gpu_memory_utilization", 0.5, lambda plan: plan.share),
        ("max_loras", 7, lambda plan: plan.slots),
        ("max_cpu_loras", 9, lambda plan: plan.host_adapters),
        ("max_num_seqs", 48, lambda plan: plan.batch.requests),
        ("max_num_batched_tokens", 512, lambda plan: plan.batch.tokens),
        ("max_model_len", 4096, lambda plan: plan.context),
        ("kv_cache_memory_bytes", 1 << 30, lambda plan: plan.kv_bytes),
        ("max_lora_rank", 128, lambda plan: plan.wanted.rank),
        ("tensor_parallel_size", 2, lambda plan: plan.gpus),
    ],
)
def test_what_the_operator_sets_is_kept(argument: str, value: float, found: object) -> None:
    assert callable(found)
    description = SHAPES["8B"].describe(**{argument: value})
    assert description.memory is not None
    assert found(plan_memory(GPUS["L40S"], description, description.memory, Wanted(), HOST)) == value


def test_slots_are_no_more_than_the_operators_adapters_in_host_memory() -> None:
    assert plan("H100", "8B", max_cpu_loras=2).slots == 2


def test_an_eager_engine_has_no_graphs_and_offloaded_weights_are_not_on_the_gpu() -> None:
    assert plan("L4", "8B", enforce_eager=True).parts.cuda_graphs == 0
    assert plan("L4", "8B", cpu_offload_gb=4).parts.weights == 16_060_522_496 - 4 * GIB
    assert plan("L4", "0.5B", cpu_offload_gb=4).parts.weights == 0


def test_two_gpus_share_weights_and_kv_cache() -> None:
    one, two = plan("H100", "70B"), plan("H100", "70B", tensor_parallel_size=2)
    assert not one.fits
    assert two.fits
    assert two.parts.weights == 141_107_412_992 // 2
    assert two.request_bytes(2048) == 2048 * 327_680 // 2
    assert abs(two.context - min(131_072, 2 * two.kv_bytes // 327_680)) <= 16


@pytest.mark.parametrize(
    ("heads", "arguments", "parts"),
    [
        (8, {"tensor_parallel_size": 4}, 4),
        (2, {"tensor_parallel_size": 4}, 2),  # each head is on two GPUs
        (1, {"tensor_parallel_size": 8}, 1),  # latent attention, as DeepSeek's
        (None, {"tensor_parallel_size": 8}, 8),  # states, which have no heads
        (2, {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, 4),
        (1, {"pipeline_parallel_size": 2}, 2),
    ],
)
def test_gpus_have_copies_of_the_kv_cache_if_there_are_more_than_heads(
    heads: int | None, arguments: dict[str, int], parts: int
) -> None:
    described = SHAPES["8B"].describe(**arguments)
    assert described.memory is not None
    memory = described.memory.model_copy(update={"kv_cache_parts": heads})
    found = plan_memory(GPUS["T4"], described, memory, Wanted(), HOST)
    assert found.request_bytes(32_768) == 32_768 * 131_072 // parts
    assert abs(found.context - max(0, min(131_072, parts * found.kv_bytes // 131_072))) <= 16


@pytest.mark.parametrize(
    "arguments", [{"tensor_parallel_size": 8}, {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}]
)
def test_each_worker_has_every_adapter_in_host_memory(arguments: dict[str, int]) -> None:
    """GPU-13: 70B, rank 64: eight workers pin an adapter each, of a quarter of the host's memory in all."""
    one, eight = plan("H200", "70B", Wanted(rank=64)), plan("H200", "70B", Wanted(rank=64), 512 * GIB, **arguments)
    assert eight.adapter_host_bytes == 8 * one.adapter_host_bytes
    assert eight.host_adapters == 128 * GIB // eight.adapter_host_bytes


def test_a_base_without_adapters_has_no_slots_and_half_of_the_graphs() -> None:
    description = SHAPES["8B"].describe().model_copy(update={"refusal": "vLLM serves it without adapters"})
    assert description.memory is not None
    found = plan_memory(GPUS["L4"], description, description.memory, Wanted(), HOST)
    assert (found.slots, found.parts.slots, found.parts.cuda_graphs) == (0, 0, 32 * 8 * MIB)
    assert "max_loras" not in found.arguments


def test_a_wanted_context_is_the_context() -> None:
    found = plan("L4", "8B", Wanted(context=8192))
    assert (found.context, found.arguments["max_model_len"], found.fits) == (8192, 8192, True)
    assert not plan("L4", "8B", Wanted(context=100_000)).fits
    assert plan("L4", "8B", max_model_len=4096).arguments["max_model_len"] == 4096


def test_a_base_with_a_short_context_fits_with_it() -> None:
    shape = replace(SHAPES["0.5B"], max_context=512)
    description = Shape.describe(shape)
    assert description.memory is not None
    found = plan_memory(GPUS["T4"], description, description.memory, Wanted(), HOST)
    assert (found.required_context, found.context, found.typical_tokens, found.fits) == (512, 512, 512, True)


def test_a_full_gpu_has_no_memory_for_an_engine() -> None:
    description = SHAPES["0.5B"].describe()
    assert description.memory is not None
    found = plan_memory(gpu("busy", 24_576, (8, 9), free_mib=100), description, description.memory, Wanted(), HOST)
    assert (found.share, found.context, found.fits) == (0, 0, False)
