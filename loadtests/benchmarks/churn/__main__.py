"""Runs the benchmark: `python -m benchmarks.churn`."""

import typer

from benchmarks.churn.command import main

if __name__ == "__main__":
    typer.run(main)
