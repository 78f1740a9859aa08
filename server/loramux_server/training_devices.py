"""The devices that a job may train on, as the API process sees them: without torch, before a trainer is started."""

from collections.abc import Sequence
from importlib.util import find_spec

from loramux_adapters.finetuning.recipes.memory import free_cpu_memory
from loramux_adapters.finetuning.recipes.memory_demand import TrainingDevice
from loramux_server.gpus import Gpu
from loramux_server.machine import BFLOAT16, Machine

_SLEEPING_ENGINE_SHARE = 0.1
"""Share of a GPU that an engine keeps while it sleeps, at most: contexts, graphs and buffers."""
_GPU_PARAMETER_BYTES = 2
"""Of bfloat16, or float16 on older GPUs."""


def training_devices(
    machine: Machine, backend: str, requested: str, *, engine_sleeps: bool
) -> Sequence[TrainingDevice]:
    """Return the devices that `requested` allows, best first; none if a GPU's number or free memory is not known.

    The trainer measures again. If the engine sleeps while a job trains, its memory counts as free.
    """
    cpu = TrainingDevice("cpu", free_cpu_memory(), 2 if machine.instructions & {*BFLOAT16, "bf16"} else 4)
    if requested == "cpu" or (requested == "auto" and backend != "cuda"):
        return [cpu]
    gpus = [(f"cuda:{number}", gpu) for number, gpu in enumerate(machine.gpus)]
    allowed = [gpu for gpu in gpus if requested == "auto" or gpu[0] == _numbered(requested)]
    found = [_describe(name, gpu, engine_sleeps=engine_sleeps) for name, gpu in allowed if gpu.problem is None]
    known = [gpu for gpu in found if gpu is not None]
    if not known or len(known) < len(found):
        return []
    known.sort(key=lambda gpu: gpu.free_bytes, reverse=True)
    return [*known, cpu] if requested == "auto" else known


def _numbered(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


def _describe(name: str, gpu: Gpu, *, engine_sleeps: bool) -> TrainingDevice | None:
    free = int(gpu.memory_bytes * (1 - _SLEEPING_ENGINE_SHARE)) if engine_sleeps else gpu.free_bytes
    if free is None or gpu.doubt:
        return None
    return TrainingDevice(name, free, _GPU_PARAMETER_BYTES, can_load_in_4bit=find_spec("bitsandbytes") is not None)
