"""Runs the benchmark: `python -m benchmarks.overhead`."""

import typer

from benchmarks.overhead.command import main

if __name__ == "__main__":
    typer.run(main)
