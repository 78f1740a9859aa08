"""Plugins of vLLM and Triton, which find them by the entry points in the folder next to this one.

- `platform` is vLLM's platform for CPUs with what is otherwise as on a GPU.
- `compiler` and `driver` are a Triton backend in name only. vLLM's CPU build uses Triton only where a backend for CPUs
  is installed, and PyPI's Triton has none. With TRITON_INTERPRET, kernels are interpreted and never compiled.
"""


def platform_class() -> str:
    """Return the name of the platform's class: vLLM uses it in every process that finds this package."""
    return "interpreted_cuda.platform.InterpretedCudaPlatform"
