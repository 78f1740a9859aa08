"""Pins the dependencies of `requirements/*.in`: `python3 tools/lock.py [--upgrade]`.

Without --upgrade, existing pins are kept where they still fit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from tools.steps import SetupError, StepRunner  # noqa: E402
from tools.uv import find_uv, uv_environment  # noqa: E402

# One file for all supported Pythons and processors, without a trace of the machine that made it.
OPTIONS = ["--universal", "--python-version=3.11", "--no-annotate", "--no-header", "--no-emit-find-links"]
TARGETS = {
    "cpu": ["--excludes=excluded.txt", "--excludes=excluded-cpu.txt"],
    "cuda": ["--excludes=excluded.txt"],
    # Last: they are constrained by cpu.txt and cuda.txt.
    "dev": [],
    "triton": ["--no-deps"],
}


def main(arguments: list[str]) -> int:
    """Write every pinned file; return 1, with uv's reason on standard error, if the requirements can't be resolved."""
    private, runner = ROOT / ".tools" / "uv", StepRunner()
    os.chdir(ROOT / "requirements")
    with Path(os.devnull).open() as no_lock:
        try:
            uv = find_uv(private, Path("uv.txt"), runner, no_lock.fileno())
            for name, excludes in TARGETS.items():
                command = [uv, "pip", "compile", *OPTIONS, *excludes, *arguments, f"{name}.in", "-o", f"{name}.txt"]
                runner.run(f"pinning {name}.txt", command, uv_environment(private), no_lock.fileno())
        except SetupError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
