"""Compares loramux and stock vLLM on a CUDA machine: `python loadtests/benchmarks/gpu/run.py` (see README.md)."""

import os
import sys
from pathlib import Path

ROOTS = [str(Path(__file__).parents[3] / name) for name in ("server", "adapters", "loadtests")]

if __name__ == "__main__":
    # For machines where loramux is not installed, and for the servers that are started there.
    sys.path[:0] = ROOTS
    os.environ["PYTHONPATH"] = os.pathsep.join([*ROOTS, *filter(None, [os.environ.get("PYTHONPATH")])])

    import typer

    from benchmarks.gpu.command import main

    typer.run(main)
