"""The environment of processes that run vLLM's code for CUDA on a CPU. It imports nothing heavy."""

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

TRITON = Path(sys.prefix) / "triton"
"""Installed by tools/setup.py. Not in site-packages: where Triton is installed, vLLM behaves differently."""
SITE = Path(__file__).parent / "site"
"""Has the plugins that make vLLM use it."""
REPOSITORY = Path(__file__).parents[3]
COMMAND = "make test-cuda-path"

_VARIABLES = {
    "TRITON_INTERPRET": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # vLLM's platform for CPUs then leaves the worker in the scheduler's process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def is_cuda_path() -> bool:
    """Whether this process runs vLLM's code for CUDA."""
    return all(os.environ.get(name) == value for name, value in _VARIABLES.items())


def variables(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for such a process, and all that it starts."""
    paths = [str(SITE), str(TRITON), str(REPOSITORY), *filter(None, [inherited.get("PYTHONPATH")])]
    return _VARIABLES | {"PYTHONPATH": os.pathsep.join(paths)}


def problem() -> str | None:
    """Return why such a process can't run here, None if it can."""
    if not (TRITON / "triton").is_dir():
        return f"Triton is not installed in {TRITON}: run `make dev`"
    return None


def has_cpu_build() -> bool:
    """Whether vLLM's CPU build is installed; the CUDA build runs its own code on its GPU."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True
