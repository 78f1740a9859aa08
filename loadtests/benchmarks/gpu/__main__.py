"""Runs the benchmark: `python -m benchmarks.gpu`."""

import typer

from benchmarks.gpu.command import main

if __name__ == "__main__":
    typer.run(main)
