"""Where vLLM 0.26 has what 0.32 moved: checked in a process that has only such places."""

import subprocess
import sys
from pathlib import Path


def test_what_moved_is_found_where_the_older_vllm_has_it() -> None:
    command = [sys.executable, "-m", "tests.helpers.processes.old_vllm"]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True)
