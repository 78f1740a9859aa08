import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loramux_server.gpus import Gpu
from loramux_server.machine import (
    GIB,
    Machine,
    engine_defaults,
    engine_environment,
    explain_engine,
    find_problems,
    installed_backend,
    this_machine,
)

LAPTOP = Machine(
    system="Linux",
    processor="x86_64",
    cpu_model="A processor",
    instructions=frozenset({"avx2"}),
    cores=8,
    memory_bytes=16 * GIB,
    disk_free_bytes=50 * GIB,
    libc=("glibc", (2, 36)),
    libnuma=True,
    gpus=(),
)
H100 = Gpu(name="NVIDIA H100", memory_bytes=80 * GIB, driver=580, compute_capability=(9, 0))
V100 = Gpu(name="Tesla V100", memory_bytes=16 * GIB, driver=580, compute_capability=(7, 0))


def test_a_linux_laptop_runs_the_cpu_engine() -> None:
    assert LAPTOP.backend == "cpu"
    assert find_problems(LAPTOP, "cpu") == []


def test_a_gpu_with_a_new_driver_gets_the_cuda_engine() -> None:
    machine = replace(LAPTOP, gpus=(H100,), instructions=frozenset(), libnuma=False)
    assert machine.backend == "cuda"
    assert find_problems(machine, "cuda") == []


def test_a_gpu_with_an_old_driver_gets_the_cpu_engine() -> None:
    machine = replace(LAPTOP, gpus=(replace(H100, driver=579),))
    assert machine.backend == "cpu"
    assert "driver 580 or newer" in find_problems(machine, "cuda")[0]


@pytest.mark.parametrize(
    ("change", "backend", "reason"),
    [
        ({"gpus": (H100,)}, "cuda", "NVIDIA H100 can run it (driver 580, compute capability 9.0)"),
        ({"gpus": (V100, H100)}, "cuda", "NVIDIA H100 can run it"),
        ({"gpus": (Gpu("NVIDIA GB10", 120 * GIB, None),)}, "cuda", "NVIDIA GB10 can run it"),
        ({"gpus": (V100,)}, "cpu", "Tesla V100 can't be used: its compute capability is 7.0, and CUDA 13 needs 7.5"),
        ({"gpus": (replace(H100, driver=570),)}, "cpu", "NVIDIA H100 can't be used: its driver is 570"),
        ({"gpu_problem": "there is an AMD GPU"}, "cpu", "there is an AMD GPU"),
        ({}, "cpu", "no GPU was found"),
    ],
)
def test_the_chosen_engine_has_a_reason(change: dict[str, object], backend: str, reason: str) -> None:
    """GPU-7: a CPU engine was chosen without a word about the GPU."""
    machine = replace(LAPTOP, **change)  # type: ignore[arg-type]
    assert machine.backend == backend
    assert machine.backend_reason.startswith(reason)
    assert explain_engine(machine, backend) == f"vLLM for {backend.upper()}, because {machine.backend_reason}"
    assert bool(find_problems(machine, "cuda")) == (backend == "cpu")


def test_an_engine_that_does_not_suit_the_machine_is_explained_too() -> None:
    """GPU-7."""
    assert "although NVIDIA H100 can run it" in explain_engine(replace(LAPTOP, gpus=(H100,)), "cpu")
    assert "LORAMUX_BACKEND=cuda python3 tools/setup.py" in explain_engine(replace(LAPTOP, gpus=(H100,)), "cpu")
    sentence = explain_engine(replace(LAPTOP, gpus=(V100,)), "cuda")
    assert sentence.startswith("vLLM for CUDA is installed, but Tesla V100 can't be used")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "Windows"}, "WSL2"),
        ({"system": "Darwin", "processor": "aarch64"}, "Linux container"),
        ({"processor": "riscv64"}, "riscv64 processors are not supported"),
        ({"libc": ("", ())}, "musl"),
        ({"libc": ("glibc", (2, 30))}, "has glibc 2.30: vLLM needs glibc 2.31"),
        ({"processor": "aarch64", "libc": ("glibc", (2, 33))}, "vLLM needs glibc 2.34"),
        ({"instructions": frozenset()}, "no AVX2"),
        ({"libnuma": False}, "apt-get install libnuma1"),
    ],
)
def test_an_unsupported_machine_is_reported_with_a_fix(change: dict[str, object], message: str) -> None:
    [reason] = find_problems(replace(LAPTOP, **change), "cpu")  # type: ignore[arg-type]
    assert message in reason


def test_all_problems_are_reported_together() -> None:
    assert len(find_problems(replace(LAPTOP, instructions=frozenset(), libnuma=False, libc=("", ())), "cpu")) == 3


def test_the_oldest_c_library_that_vllm_names_is_new_enough() -> None:
    assert find_problems(replace(LAPTOP, libc=("glibc", (2, 31))), "cpu") == []


def test_an_arm_server_needs_no_avx2() -> None:
    assert find_problems(replace(LAPTOP, processor="aarch64", instructions=frozenset()), "cpu") == []


def test_a_cpu_gets_bounded_settings_and_a_gpu_those_of_vllm() -> None:
    settings = engine_defaults(LAPTOP, "cpu", demo=True)
    assert (settings["max_model_len"], settings["kv_cache_memory_bytes"]) == (2048, 2 * GIB)
    assert settings["enforce_eager"] is True
    assert engine_defaults(replace(LAPTOP, gpus=(H100,)), "cuda", demo=True) == {}


def test_a_cpu_computes_in_bfloat16_only_if_it_has_instructions_for_it() -> None:
    assert engine_defaults(LAPTOP, "cpu", demo=True)["dtype"] == "float32"
    server = replace(LAPTOP, instructions=frozenset({"avx2", "avx512f", "avx512_bf16"}))
    assert engine_defaults(server, "cpu", demo=True)["dtype"] == "bfloat16"
    assert engine_defaults(replace(server, instructions=frozenset({"avx512f"})), "cpu", demo=True)["dtype"] == "float32"


def test_a_small_machine_keeps_memory_for_more_than_the_cache() -> None:
    assert engine_defaults(replace(LAPTOP, memory_bytes=4 * GIB), "cpu", demo=False)["kv_cache_memory_bytes"] == GIB


def test_only_of_few_cores_none_is_kept_free() -> None:
    assert engine_environment(replace(LAPTOP, cores=2), "cpu")["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    for machine, backend in ((LAPTOP, "cpu"), (replace(LAPTOP, cores=2), "cuda")):
        assert "VLLM_CPU_NUM_OF_RESERVED_CPU" not in engine_environment(machine, backend)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_the_engine_never_starts_as_a_copy_of_a_process_with_threads(backend: str) -> None:
    """GPU-1: with vLLM's default, a GPU's engine was forked from a thread, with the socket and the database's files."""
    assert engine_environment(LAPTOP, backend)["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def gpu_variables(*gpus: Gpu, backend: str = "cuda") -> dict[str, str]:
    variables = engine_environment(replace(LAPTOP, gpus=gpus), backend)
    return {name: value for name, value in variables.items() if name.startswith("CUDA")}


def test_cuda_numbers_gpus_as_they_are_planned_and_sees_only_those_that_can_be_used() -> None:
    """GPU-4: CUDA's first GPU is the fastest one by default, and nvidia-smi's the one on the first PCI bus."""
    good, better = replace(H100, uuid="GPU-1"), replace(H100, uuid="GPU-2")
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert gpu_variables(good, better) == order
    assert gpu_variables(V100, good, V100, better) == order | {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"}
    assert gpu_variables(V100, H100) == order  # it has no name that CUDA knows
    assert gpu_variables(V100, replace(good, doubt="it is divided into parts (MIG)")) == order
    assert gpu_variables(good, backend="cpu") == {}


def test_the_machine_of_this_test_is_seen_as_it_is(tmp_path: Path) -> None:
    machine = this_machine(tmp_path)
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.memory_bytes > GIB
    assert machine.libc[0] == "glibc"
    assert find_problems(machine, installed_backend()) == []


def test_the_module_needs_no_installed_packages() -> None:
    program = (
        "import loramux_server.machine, sys; print(sorted({'pydantic', 'torch', 'vllm', 'rich'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
