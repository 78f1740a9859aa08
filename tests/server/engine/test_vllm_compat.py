"""Imports from other versions of vLLM, in processes with stub modules in their layouts."""

import subprocess
import sys
from pathlib import Path

import pytest


def check(version: str) -> None:
    """Run the checks for a version in a process of their own."""
    command = [sys.executable, "-m", "tests.helpers.processes.other_vllm", version]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True)


@pytest.mark.parametrize("version", ["0.26", "0.33"])
def test_names_are_imported_from_where_a_version_has_them(version: str) -> None:
    """GPU-14: 0.33 moved the parser of vLLM's command line."""
    check(version)


def test_a_package_that_vllm_misses_is_the_error() -> None:
    check("missing")
