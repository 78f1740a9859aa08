"""Runs the benchmark: `python -m benchmarks.finetune`."""

import typer

from benchmarks.finetune.command import main

if __name__ == "__main__":
    typer.run(main)
