"""Runs the benchmark: `python -m benchmarks.fairness`."""

import typer

from benchmarks.fairness.command import main

if __name__ == "__main__":
    typer.run(main)
