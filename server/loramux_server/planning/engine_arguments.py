"""The engine's arguments for this machine and this base, where the operator sets none."""

from typing import Any

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.intake.sources import ReportProgress
from loramux_server.errors import CannotStart
from loramux_server.machine import Machine, engine_defaults
from loramux_server.planning.device import Device
from loramux_server.planning.parts import gpu_count
from loramux_server.planning.plan import MemoryPlan, Wanted, plan_memory
from loramux_server.planning.problems import advice, find_problems, gib


class DoesNotFit(CannotStart):
    """The base does not fit on the GPU; the message has the sizes, and says what would help."""


def suited_arguments(
    machine: Machine, backend: str, base: BaseDescription, rank: int, *, demo: bool, report_progress: ReportProgress
) -> dict[str, Any]:
    """Return vLLM's arguments for `machine`, if `base` is served with adapters up to `rank`.

    Raises:
        DoesNotFit: the engine can't start on the GPU.
        CannotStart: CUDA_VISIBLE_DEVICES, as the user set it, has a GPU that can't be used.
    """
    if backend != "cuda":
        return engine_defaults(machine, backend, demo=demo)
    _refuse_unusable(machine, base)
    plan = plan_machine(machine, base, Wanted(rank=rank))
    if plan is None:  # then vLLM looks by itself
        for gpu in machine.usable_gpus:
            if gpu.doubt:
                report_progress(f"nothing is planned for {gpu.name}: {gpu.doubt}")
        return {"max_model_len": -1}
    _refuse_if_certain(plan, machine.memory_bytes)
    report_progress(summary(plan))
    for problem in find_problems(plan):
        report_progress(f"the engine may not start: {problem.text}")
    return plan.arguments


def plan_machine(machine: Machine, base: BaseDescription, wanted: Wanted) -> MemoryPlan | None:
    """Return the plan of this machine's GPU; None if it has none, or if what it or the base has is not known.

    If several GPUs share the base, it is the plan of the one with least free memory.
    """
    if base.memory is None:
        return None
    gpus = machine.usable_gpus[: gpu_count(base.memory)]
    if not gpus or any(gpu.doubt for gpu in gpus):
        return None
    device = min(map(Device.of, gpus), key=lambda candidate: candidate.free_bytes)
    return plan_memory(device, base, base.memory, wanted, machine.memory_bytes)


def summary(plan: MemoryPlan) -> str:
    """Return the plan in one line."""
    adapters = f", {plan.slots} {'adapter' if plan.slots == 1 else 'adapters'} at a time" if plan.slots else ""
    return (
        f"{plan.device.name}: {gib(plan.budget_bytes)} for the engine, of which about {gib(max(0, plan.kv_bytes))} for "
        f"the KV cache: a context of {plan.context:,} tokens, {plan.concurrency(plan.typical_tokens)} requests with "
        f"{plan.typical_tokens:,} tokens{adapters}"
    )


def _refuse_unusable(machine: Machine, base: BaseDescription) -> None:
    """Refuse a start on a GPU that can't run it: only a CUDA_VISIBLE_DEVICES that the user set still shows one."""
    for gpu in machine.gpus[: gpu_count(base.memory) if base.memory else 1]:
        if gpu.problem and not gpu.doubt:
            raise CannotStart(f"{gpu.name} can't be used: {gpu.problem}; or leave it out of CUDA_VISIBLE_DEVICES")


def _refuse_if_certain(plan: MemoryPlan, host_bytes: int) -> None:
    certain = [problem.text for problem in find_problems(plan) if problem.is_certain]
    if certain:
        helps = advice(plan, host_bytes)
        raise DoesNotFit("\n".join([*certain, *([f"What would help: {'; '.join(helps)}"] if helps else [])]))
