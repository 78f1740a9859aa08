import json

import pytest

from loramux_server.planning.device import Device
from loramux_server.planning.plan import Wanted, plan_memory
from loramux_server.planning.report import free_for_training, plan_report
from loramux_server.planning.training_needs import training_needs
from tests.helpers.gpu_plans import GIB, GPUS, MIB, SHAPES


def report(gpu_name: str, base: str, host: int = 64 * GIB, **arguments: object) -> dict[str, object]:
    description = SHAPES[base].describe(**arguments)
    assert description.memory is not None
    found = plan_report(plan_memory(GPUS[gpu_name], description, description.memory, Wanted(), host), host)
    return dict(json.loads(json.dumps(found)))


def places(found: dict[str, object]) -> list[str]:
    needs = found["training"]
    assert isinstance(needs, list)
    return [need["fits"] for need in needs]


def test_a_small_base_is_trained_next_to_its_engine_on_a_large_gpu() -> None:
    """GPU-10: 8 % of an H200 are left to a trainer."""
    assert "next to the engine" in places(report("H200", "0.5B"))


def test_an_8b_base_is_trained_on_24_gib_while_the_engine_sleeps() -> None:
    """GPU-10: in 16 bits, only one example at a time; in 4 bits, in whole batches."""
    assert places(report("RTX 4090", "8B")) == ["nowhere", "nowhere", *["while the engine sleeps"] * 3]


def test_an_engine_sleeps_only_where_host_memory_can_keep_its_weights() -> None:
    assert set(places(report("RTX 4090", "8B", host=8 * GIB))) == {"nowhere"}


def test_the_weights_of_all_gpus_and_the_adapters_are_in_host_memory_while_an_engine_sleeps() -> None:
    """GPU-10: 70B on four H100, of which each has 33 GiB of the 131; a trainer in 4 bits fits on one."""
    sleeping = "while the engine sleeps"
    assert sleeping not in places(report("H100", "70B", host=64 * GIB, tensor_parallel_size=4))
    assert sleeping not in places(report("H100", "70B", host=160 * GIB, tensor_parallel_size=4))  # 40 for adapters
    assert sleeping in places(report("H100", "70B", host=192 * GIB, tensor_parallel_size=4))


def test_weights_that_are_dequantized_to_train_are_counted_in_16_bits() -> None:
    """GPU-10: FP8; transformers quantizes them no more, so that there is no way in 4 bits."""
    packed = SHAPES["8B AWQ"].describe()
    assert packed.memory is not None
    memory = packed.memory.model_copy(update={"quantization": "fp8", "can_dequantize": True})
    dequantized = training_needs(packed.model_copy(update={"memory": memory}), 16)
    assert dequantized == training_needs(SHAPES["8B"].describe(), 16)[:3]
    on_load = memory.model_copy(update={"is_quantized_on_load": True})
    assert training_needs(packed.model_copy(update={"memory": on_load}), 16) == training_needs(
        SHAPES["8B"].describe(), 16
    )


def test_quantized_weights_are_not_quantized_again() -> None:
    assert len(places(report("L4", "8B AWQ"))) == 3


def test_a_base_that_can_not_be_trained_has_no_needs() -> None:
    description = SHAPES["8B"].describe().model_copy(update={"refusal": "vLLM serves it without adapters"})
    assert training_needs(description, 16) == []


def test_what_is_free_for_training_is_what_the_engine_leaves() -> None:
    description = SHAPES["3B"].describe(gpu_memory_utilization=0.5)
    assert description.memory is not None
    plan = plan_memory(Device("24", 24 * GIB, 24 * GIB), description, description.memory, Wanted(), 64 * GIB)
    assert free_for_training(plan, asleep=False) == 12 * GIB - 2 * 640 * MIB  # two processes use CUDA
    assert free_for_training(plan, asleep=True) == 24 * GIB - 2 * 640 * MIB - 512 * MIB - 28 * 16 * MIB


@pytest.mark.parametrize("base", SHAPES)
@pytest.mark.parametrize("gpu_name", GPUS)
def test_the_parts_of_a_report_add_up(gpu_name: str, base: str) -> None:
    sizes = report(gpu_name, base)["sizes"]
    assert isinstance(sizes, dict)
    assert sum(size for name, size in sizes.items() if name != "engine") == sizes["engine"]
