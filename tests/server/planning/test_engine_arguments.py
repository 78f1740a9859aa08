from dataclasses import replace

import pytest

from loramux_server.errors import CannotStart
from loramux_server.gpus import Gpu
from loramux_server.machine import Machine, engine_defaults
from loramux_server.planning.engine_arguments import DoesNotFit, plan_machine, suited_arguments
from loramux_server.planning.plan import Wanted
from tests.helpers.gpu_plans import GIB, SHAPES
from tests.server.test_machine import LAPTOP

L4 = Gpu("NVIDIA L4", 23_034 << 20, 580, (8, 9), 22_500 << 20)
MACHINE = replace(LAPTOP, gpus=(L4,), memory_bytes=64 * GIB)


def suited(machine: Machine, base: str, backend: str = "cuda", **arguments: object) -> tuple[dict[str, object], str]:
    """Return the arguments, and what is reported."""
    lines: list[str] = []
    description = SHAPES[base].describe(**arguments)
    found = suited_arguments(machine, backend, description, 16, demo=False, report_progress=lines.append)
    return found, "\n".join(lines)


def test_a_gpu_gets_the_arguments_of_its_plan() -> None:
    """GPU-4, GPU-13: the context is fitted, the share is what is free, and slots are what the memory holds."""
    found, reported = suited(MACHINE, "8B")
    assert found["max_model_len"] == -1
    assert found["gpu_memory_utilization"] == 0.92
    assert isinstance(found["max_loras"], int)
    assert 1 < found["max_loras"] <= 16
    assert "NVIDIA L4: 20.7 GiB for the engine" in reported
    assert "tokens" in reported


def test_a_cpu_keeps_its_arguments() -> None:
    assert suited(MACHINE, "8B", backend="cpu") == (engine_defaults(MACHINE, "cpu", demo=False), "")


@pytest.mark.parametrize(
    ("base", "arguments", "reason"),
    [
        ("70B", {}, "131.4 GiB of weights"),
        ("8B", {"max_model_len": 131_072}, "16.0 GiB of KV cache"),
        ("8B", {"dtype": "float32"}, "float32"),
        ("8B", {"gpu_memory_utilization": 1.0}, "asks for 22.5 GiB"),
    ],
)
def test_a_start_that_can_not_fit_is_refused_with_the_numbers(
    base: str, arguments: dict[str, object], reason: str
) -> None:
    """GPU-4, GPU-9: before vLLM is started, which takes a minute to find out."""
    with pytest.raises(DoesNotFit) as caught:
        suited(MACHINE, base, "cuda", **arguments)
    assert reason in str(caught.value)


def test_a_refusal_says_what_would_help() -> None:
    with pytest.raises(DoesNotFit, match=r"What would help: .*MAX_MODEL_LEN=-1"):
        suited(MACHINE, "8B", max_model_len=131_072)


def test_a_start_that_may_fail_is_only_reported() -> None:
    small = replace(MACHINE, gpus=(replace(L4, memory_bytes=17 * GIB, free_bytes=17 * GIB),))
    found, reported = suited(small, "8B")
    assert found
    assert "the engine may not start: base needs" in reported


def test_several_gpus_are_planned_by_the_one_with_least_free_memory() -> None:
    busy = replace(L4, free_bytes=20 * GIB)
    pair = replace(MACHINE, gpus=(L4, busy))
    assert suited(pair, "8B")[0]["gpu_memory_utilization"] == 0.92
    assert suited(pair, "8B", tensor_parallel_size=2)[0]["gpu_memory_utilization"] == 0.86


OLD = replace(L4, name="V100", compute_capability=(7, 0), memory_bytes=16 * GIB)


def test_a_gpu_that_can_not_be_used_is_not_planned() -> None:
    """For `doctor`: `serve` shows CUDA only those that can be used."""
    base = SHAPES["8B"].describe()
    plan = plan_machine(replace(MACHINE, gpus=(OLD, L4)), base, Wanted())
    assert plan is not None
    assert plan.device.name == "NVIDIA L4"


@pytest.mark.parametrize(("gpus", "count"), [((OLD, L4), 1), ((L4, OLD, L4), 2)])
def test_a_start_on_a_gpu_that_can_not_be_used_is_refused(gpus: tuple[Gpu, ...], count: int) -> None:
    """GPU-7: the user's CUDA_VISIBLE_DEVICES stays, and the plan would be another GPU's than the engine's."""
    with pytest.raises(CannotStart, match=r"V100 can't be used: .* leave it out of CUDA_VISIBLE_DEVICES"):
        suited(replace(MACHINE, gpus=gpus), "8B", tensor_parallel_size=count)


def test_a_gpu_behind_those_that_serve_does_not_matter() -> None:
    assert suited(replace(MACHINE, gpus=(L4, OLD)), "8B")[0]["gpu_memory_utilization"] == 0.92


def test_a_gpu_of_which_the_engine_gets_something_else_is_not_planned() -> None:
    """GPU-7: a part of it, or GPUs in an order that is not known."""
    parts = replace(MACHINE, gpus=(replace(L4, doubt="it is divided into parts (MIG)"),))
    reported = "nothing is planned for NVIDIA L4: it is divided into parts (MIG)"
    assert suited(parts, "8B") == ({"max_model_len": -1}, reported)


def test_memory_of_which_nothing_is_known_is_vllms_concern() -> None:
    """GPU-7: a driver may not say how much is free; without `nvidia-smi`, nothing is known."""
    assert suited(replace(MACHINE, gpus=(replace(L4, free_bytes=None),)), "8B")[0]["gpu_memory_utilization"] == 0.92
    assert suited(replace(MACHINE, gpus=()), "8B") == ({"max_model_len": -1}, "")
    unknown = SHAPES["8B"].describe().model_copy(update={"memory": None})
    assert suited_arguments(MACHINE, "cuda", unknown, 16, demo=False, report_progress=print) == {"max_model_len": -1}
