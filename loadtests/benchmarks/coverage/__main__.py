"""Runs the simulation: `python -m benchmarks.coverage`."""

import typer

from benchmarks.coverage.command import main

if __name__ == "__main__":
    typer.run(main)
