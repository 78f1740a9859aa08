"""Runs the benchmark: `python -m benchmarks.client_overhead`."""

import typer

from benchmarks.client_overhead.command import main

if __name__ == "__main__":
    typer.run(main)
