"""The devices that jobs are planned for; GPU-10."""

from dataclasses import replace

import pytest

from loramux_server.gpus import Gpu
from loramux_server.machine import Machine
from loramux_server.training_devices import training_devices

GIB = 1 << 30
L4 = Gpu("NVIDIA L4", 24 * GIB, 580, (8, 9), free_bytes=2 * GIB)
H100 = Gpu("NVIDIA H100", 80 * GIB, 580, (9, 0), free_bytes=70 * GIB)
PASCAL = Gpu("Tesla P40", 24 * GIB, 580, (6, 1), free_bytes=24 * GIB)
MACHINE = Machine("Linux", "x86_64", "cpu", frozenset(), 8, 64 * GIB, 0, ("glibc", (2, 36)), True, (L4, H100, PASCAL))


def found(requested: str, *, machine: Machine = MACHINE, backend: str = "cuda", sleeps: bool = False) -> list[str]:
    devices = training_devices(machine, backend, requested, engine_sleeps=sleeps)
    return [f"{device.name} {device.free_bytes // GIB}" if device.is_gpu else device.name for device in devices]


def test_auto_has_the_usable_gpus_by_their_free_memory_and_the_cpu_last() -> None:
    assert found("auto") == ["cuda:1 70", "cuda:0 2", "cpu"]


@pytest.mark.parametrize(
    ("requested", "devices"), [("cpu", ["cpu"]), ("cuda", ["cuda:0 2"]), ("cuda:1", ["cuda:1 70"]), ("cuda:7", [])]
)
def test_a_configured_device_is_the_only_one(requested: str, devices: list[str]) -> None:
    assert found(requested) == devices


def test_the_cpu_build_of_the_engine_trains_on_the_cpu() -> None:
    assert found("auto", backend="cpu") == ["cpu"]


def test_the_memory_of_an_engine_that_sleeps_meanwhile_is_free() -> None:
    assert found("cuda:0", sleeps=True) == ["cuda:0 21"]


def test_nothing_is_expected_of_a_gpu_whose_free_memory_is_not_known() -> None:
    assert found("auto", machine=replace(MACHINE, gpus=(replace(L4, free_bytes=None), H100))) == []


@pytest.mark.parametrize("sleeps", [False, True])
def test_nothing_is_expected_of_a_gpu_whose_number_is_not_known(sleeps: bool) -> None:
    gpus = tuple(replace(gpu, doubt="its number is not known") for gpu in (L4, H100))
    assert found("cuda:0", machine=replace(MACHINE, gpus=gpus), sleeps=sleeps) == []


@pytest.mark.parametrize(("instructions", "size"), [({"avx512_bf16"}, 2), ({"bf16"}, 2), ({"avx512f"}, 4)])
def test_a_cpu_with_bfloat16_needs_half_the_memory(instructions: set[str], size: int) -> None:
    machine = replace(MACHINE, instructions=frozenset(instructions))
    assert training_devices(machine, "cpu", "auto", engine_sleeps=False)[0].bytes_per_parameter == size
