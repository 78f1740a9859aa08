"""Runs the tests of the CUDA path in processes of their own: `python -m tests.cuda_path [pytest's arguments]`."""

import os
import sys
from pathlib import Path

from tests.helpers.cuda_path.environment import has_cpu_build, problem, variables

PATHS = ("tests/cuda_path", "tests/contract")
"""Where tests with the mark are; those of the contract run on vLLM's V1 model runner too, in `make test`."""


def main(arguments: list[str]) -> None:
    """Replace this process by pytest's.

    Raises:
        SystemExit: with an error if the tests can't run, without one if there is nothing to run.
    """
    if not has_cpu_build():
        sys.stderr.write("vLLM's CUDA build is installed: the engine's tests (-m engine) run this code, on the GPU\n")
        sys.exit()
    if reason := problem():
        sys.exit(reason)
    has_paths = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    command = [sys.executable, "-m", "pytest", "-m", "cuda_path", *arguments, *(() if has_paths else PATHS)]
    os.execve(sys.executable, command, os.environ | variables(os.environ))  # noqa: S606 - no shell


if __name__ == "__main__":
    main(sys.argv[1:])
