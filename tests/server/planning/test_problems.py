import pytest

from loramux_server.planning.device import Device
from loramux_server.planning.plan import MemoryPlan, Wanted, plan_memory
from loramux_server.planning.problems import advice, find_problems, gib
from tests.helpers.gpu_plans import GIB, GPUS, SHAPES, gpu

HOST = 64 * GIB


def plan(device: Device | str, base: str, wanted: Wanted | None = None, **arguments: object) -> MemoryPlan:
    description = SHAPES[base].describe(**arguments)
    assert description.memory is not None
    target = GPUS[device] if isinstance(device, str) else device
    return plan_memory(target, description, description.memory, wanted or Wanted(), HOST)


def texts(found: MemoryPlan) -> str:
    return "\n".join(problem.text for problem in find_problems(found))


def certain(found: MemoryPlan) -> bool:
    return any(problem.is_certain for problem in find_problems(found))


def test_a_plan_that_fits_has_no_problems_and_needs_no_help() -> None:
    found = plan("L4", "3B")
    assert (find_problems(found), advice(found, HOST)) == ([], [])


def test_weights_that_do_not_fit_are_a_certain_problem_with_all_sizes() -> None:
    """GPU-4: 16 bits of an 8B base take 15.0 GiB, and a T4 has 13.8 GiB for an engine."""
    found = plan("T4", "8B")
    assert certain(found)
    assert "15.0 GiB of weights" in texts(found)
    assert "can have 13.8 GiB of its 15.0 GiB" in texts(found)


def test_what_depends_on_estimates_is_not_certain() -> None:
    """The engine itself may take less than estimated: then vLLM decides."""
    found = plan(gpu("17 GiB", 17 * 1024, (8, 9)), "8B")  # 15.6 GiB for the engine, 15.0 of weights
    assert not found.fits
    assert find_problems(found)
    assert not certain(found)


def test_the_operators_context_that_can_not_fit_is_certain() -> None:
    """GPU-4: 131,072 tokens of an 8B base take 16 GiB of KV cache."""
    found = plan("L4", "8B", max_model_len=131_072)
    assert certain(found)
    assert "16.0 GiB of KV cache for one request with 131,072 tokens" in texts(found)
    assert any("MAX_MODEL_LEN=-1" in text for text in advice(found, HOST))


def test_a_wanted_context_beyond_the_bases_own_is_refused() -> None:
    assert "made for 32,768 tokens of context, not for 40,000" in texts(plan("H200", "0.5B", Wanted(context=40_000)))


def test_a_share_that_is_not_free_is_certain() -> None:
    """GPU-4: vLLM refuses the start."""
    device = gpu("RTX 4090", 24_576, (8, 9), free_mib=20_000)
    found = plan(device, "3B", gpu_memory_utilization=0.92)
    assert certain(found)
    assert "gpu_memory_utilization=0.92 asks for 22.1 GiB" in texts(found)
    assert "set at most 0.78" in texts(found)
    assert not find_problems(plan(device, "3B", gpu_memory_utilization=0.78))


def test_a_share_that_is_hardly_free_is_reported_and_vllm_decides() -> None:
    """CUDA itself takes some memory before vLLM looks."""
    found = plan(gpu("RTX 4090", 24_576, (8, 9), free_mib=20_000), "3B", gpu_memory_utilization=0.81)  # 19,906 MiB
    assert "set at most 0.78" in texts(found)
    assert not certain(found)


@pytest.mark.parametrize("dtype", ["float32", "float"])
def test_float32_is_refused_on_a_gpu(dtype: str) -> None:
    """GPU-9: vLLM's kernels for adapters assert 16 bits, and the engine would die at the first adapter."""
    found = plan("H100", "0.5B", dtype=dtype)
    assert certain(found)
    assert "float32 can't be served with adapters on a GPU" in texts(found)


@pytest.mark.parametrize("dtype", ["float16", "half", "bfloat16"])
def test_16_bits_are_served(dtype: str) -> None:
    assert find_problems(plan("H100", "0.5B", dtype=dtype)) == []


def test_bfloat16_is_refused_on_a_gpu_without_it() -> None:
    assert certain(plan("T4", "0.5B", dtype="bfloat16"))
    assert find_problems(plan("T4", "0.5B", dtype="half")) == []


def test_quantized_weights_need_a_gpu_that_can_read_them() -> None:
    """GPU-9: vLLM says which compute capability a method needs."""
    assert "need a GPU with compute capability 7.5" in texts(plan(gpu("V100", 16_384, (7, 0)), "8B AWQ"))
    assert find_problems(plan("T4", "8B AWQ")) == []


def test_an_unknown_compute_capability_hides_nothing() -> None:
    assert find_problems(plan(Device("?", 24 * GIB, 24 * GIB), "8B AWQ")) == []


def test_more_requests_than_fit_are_a_problem() -> None:
    found = plan("L4", "8B", Wanted(context=8192, requests=50))
    assert "and not 50 requests with 8,192 tokens" in texts(found)
    assert not certain(found)
    assert find_problems(plan("L4", "8B", Wanted(context=8192, requests=2))) == []


def test_quantized_weights_and_more_gpus_help() -> None:
    helps = "\n".join(advice(plan("T4", "8B"), HOST))
    assert "8-bit weights (FP8, INT8), about 8.2 GiB" in helps
    assert "TENSOR_PARALLEL_SIZE=2" in helps


def test_only_help_that_helps_is_named() -> None:
    helps = "\n".join(advice(plan("T4", "70B"), HOST))
    assert "weights" not in helps  # 4 bits take 42 GiB
    assert "TENSOR_PARALLEL_SIZE=4" not in helps  # 70B in 16 bits on 4 x 15 GiB
    assert "quantiz" not in "\n".join(advice(plan("T4", "8B AWQ", max_model_len=131_072), HOST))


def test_fewer_slots_help_where_slots_are_what_is_too_much() -> None:
    found = plan("L4", "8B", max_loras=64)
    assert not found.fits
    assert any("MAX_LORAS=1" in text for text in advice(found, HOST))


def test_the_rest_of_the_free_memory_helps_if_that_is_enough() -> None:
    device = gpu("H200", 143_771, (9, 0))
    description = SHAPES["70B"].describe(max_num_seqs=64, enforce_eager=True, max_loras=1)
    assert description.memory is not None
    found = plan_memory(device, description, description.memory, Wanted(), HOST)
    assert not found.fits
    assert any("GPU_MEMORY_UTILIZATION=0.99" in text for text in advice(found, HOST))


@pytest.mark.parametrize(("size", "text"), [(0, "0 MiB"), (88 << 20, "88 MiB"), (GIB, "1.0 GiB"), (-GIB, "-1.0 GiB")])
def test_sizes_are_readable(size: int, text: str) -> None:
    assert gib(size) == text


def test_a_kv_cache_of_a_chosen_size_must_fit_into_what_is_free() -> None:
    """vLLM heeds no share of the memory then."""
    assert find_problems(plan("L4", "8B", kv_cache_memory_bytes=4 * GIB)) == []
    found = plan("L4", "8B", kv_cache_memory_bytes=12 * GIB)
    assert certain(found)
    assert "12.0 GiB of KV cache" in texts(found)
    short = plan("L4", "8B", kv_cache_memory_bytes=GIB // 8)
    assert "kv_cache_memory_bytes=134217728 holds 1,024 tokens of context, and not 2,048" in texts(short)


def test_weights_that_are_quantized_while_they_load_are_never_certain_not_to_fit() -> None:
    """GPU-9: vLLM makes its model in 16 bits first, and does not say what will be left."""
    description = SHAPES["8B"].describe()
    assert description.memory is not None
    memory = description.memory.model_copy(update={"is_quantized_on_load": True, "quantization": "fp8"})
    found = plan_memory(GPUS["T4"], description, memory, Wanted(), HOST)
    assert "15.0 GiB of weights before they are quantized" in texts(found)
    assert not certain(found)
    assert found.arguments == {"dtype": "float16", "gpu_memory_utilization": 0.92, "max_model_len": -1}


def test_slots_on_several_gpus_are_certain_only_with_the_part_of_one() -> None:
    """vLLM shares some matrices of a slot between the GPUs."""
    found = plan("T4", "8B", tensor_parallel_size=2, max_loras=40, max_lora_rank=32)  # 6.6 GiB of slots, or half
    assert not found.fits
    assert not certain(found)


def test_a_gpu_that_others_use_is_to_be_freed() -> None:
    """For example by a server that runs already, while `doctor` looks."""
    found = plan(gpu("NVIDIA L4", 23_034, (8, 9), free_mib=2_048), "8B")
    assert advice(found, HOST) == ["stop what uses 20.5 GiB of NVIDIA L4", *advice(found, HOST)[1:]]
    assert not any("stop what uses" in text for text in advice(plan("T4", "8B"), HOST))
