"""Imports from vLLM 0.26, in a process with stub modules in its layout."""

import subprocess
import sys
from pathlib import Path


def test_names_are_imported_from_where_the_older_vllm_has_them() -> None:
    command = [sys.executable, "-m", "tests.helpers.processes.old_vllm"]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True)
