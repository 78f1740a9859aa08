"""The devices of this machine that can train, and the dtype in which each does."""

import re

import psutil
import torch
from transformers.utils import is_bitsandbytes_available

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.recipes.memory import free_cpu_memory
from loramux_adapters.finetuning.recipes.memory_demand import TrainingDevice

_NATIVE_BFLOAT16 = (8, 0)
"""Oldest compute capability that multiplies bfloat16; older GPUs emulate it slowly, but multiply float16."""


def candidate_devices(requested: str) -> list[TrainingDevice]:
    """Return the devices to choose from, best first: for `auto` the GPUs by their free memory, then the CPU.

    GPUs for which PyTorch has no kernels are left out.

    Raises:
        TrainingError: the machine has no such device, or PyTorch has no kernels for it.
    """
    if requested != "auto":
        _check(requested)
        return [_describe(requested)]
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    gpus = [_describe(name) for name in names if _has_kernels(torch.cuda.get_device_capability(name))]
    return [*sorted(gpus, key=lambda gpu: gpu.free_bytes, reverse=True), _describe("cpu")]


def select_dtype(device: str) -> torch.dtype:
    """Return bfloat16 if the device multiplies it natively: the base is served so too, and training is faster.

    Otherwise float16 on a GPU, and float32 on a CPU. On two cores of an EPYC with AVX512-BF16, bfloat16 took less than
    half of float32's time, at the same quality.
    """
    if device != "cpu":
        native = torch.cuda.get_device_capability(device) >= _NATIVE_BFLOAT16
        return torch.bfloat16 if native else torch.float16
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def free_memory(device: str) -> int:
    """Return the free memory of the device in bytes."""
    return free_cpu_memory() if device == "cpu" else torch.cuda.mem_get_info(device)[0]


def available_memory(device: str) -> int:
    """Return the memory that this process has on the device or could still get, in bytes."""
    held = psutil.Process().memory_info().rss if device == "cpu" else torch.cuda.memory_reserved(device)
    return free_memory(device) + held


def _describe(device: str) -> TrainingDevice:
    is_gpu = device != "cpu"
    return TrainingDevice(
        name=device,
        free_bytes=free_memory(device),
        bytes_per_parameter=select_dtype(device).itemsize,
        can_load_in_4bit=is_gpu and is_bitsandbytes_available(),
    )


def _check(requested: str) -> None:
    kind, _, number = requested.partition(":")
    gpus = torch.cuda.device_count()
    count = gpus if kind == "cuda" else 1
    if kind not in {"cpu", "cuda"} or not (number or "0").isdecimal() or int(number or 0) >= count:
        raise TrainingError(
            f"unknown device {requested!r:.40}; expected auto, cpu, or one of this machine's {gpus} GPUs (cuda:N)"
        )
    if kind == "cuda" and not _has_kernels(capability := torch.cuda.get_device_capability(requested)):
        raise TrainingError(
            f"{requested} has compute capability {capability[0]}.{capability[1]}, and this PyTorch has kernels for "
            f"{', '.join(torch.cuda.get_arch_list())} only; set training.device to auto, cpu, or a newer GPU"
        )


def _has_kernels(capability: tuple[int, int]) -> bool:
    """Whether PyTorch was built for a GPU of this capability: machine code runs on later minor versions, PTX on all."""
    built = [re.match(r"(sm|compute)_(\d+)(\d)", name) for name in torch.cuda.get_arch_list()]
    found = [(match[1], (int(match[2]), int(match[3]))) for match in built if match]
    return not found or any(
        version <= capability and (form == "compute" or version[0] == capability[0]) for form, version in found
    )
