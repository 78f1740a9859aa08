"""Checks loramux on a CUDA machine and compares its speed with stock vLLM's: `python run.py` (see README.md)."""

import os
import sys
from pathlib import Path

ROOTS = [str(Path(__file__).parents[3] / name) for name in ("server", "adapters", "loadtests")]


def _install_and_go_on(version: str, arguments: list[str]) -> None:
    """Replace this process by the same script in the environment with this version of vLLM."""
    from tools.steps import SetupError

    from benchmarks.gpu.install import install

    try:
        python = str(install(version, Path(f".gpu-vllm-{version}").resolve()))
    except SetupError as error:
        sys.exit(str(error))
    os.execv(python, [python, __file__, *arguments])  # noqa: S606 - there is no shell


if __name__ == "__main__":
    # For machines where loramux is not installed, and for the servers that are started there.
    sys.path[:0] = [*ROOTS, str(Path(__file__).parents[3])]
    os.environ["PYTHONPATH"] = os.pathsep.join([*ROOTS, *filter(None, [os.environ.get("PYTHONPATH")])])

    from benchmarks.gpu.install import requested_version

    version, arguments = requested_version(sys.argv[1:])
    if version is not None:
        _install_and_go_on(version, arguments)

    import typer

    from benchmarks.gpu.command import main

    typer.run(main)
