"""Installs a version of vLLM for CUDA and the packages of loramux into an environment of its own; needs no packages."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def requested_version(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of `--install`, and the arguments without it."""
    for index, argument in enumerate(arguments):
        name, has_value, value = argument.partition("=")
        if name == "--install":
            rest = arguments[index + (1 if has_value else 2) :]
            return value or next(iter(arguments[index + 1 :]), ""), [*arguments[:index], *rest]
    return None, list(arguments)


def install(version: str, folder: Path) -> Path:
    """Create the environment `folder` unless it is complete; returns its Python.

    Raises:
        SetupError: the packages can't be found or installed.
    """
    sys.path.insert(0, str(ROOT))
    from tools.steps import StepRunner  # the tools are not on the path before
    from tools.uv import find_uv, uv_environment

    python, complete = folder / "bin" / "python", folder / ".complete"
    if complete.exists():
        return python
    pins, private, runner = ROOT / "requirements", ROOT / ".tools" / "uv", StepRunner()
    with Path(os.devnull).open() as no_lock:
        uv = find_uv(private, pins / "uv.txt", runner, no_lock.fileno())
        for step, command in commands(uv, version, folder, pins):
            runner.run(step, command, uv_environment(private), no_lock.fileno())
    complete.touch()
    return python


def commands(uv: str, version: str, folder: Path, pins: Path) -> list[tuple[str, list[str]]]:
    """Return the steps: what they do, and their commands."""
    wanted, pinned = folder / "wanted.in", folder / "pinned.txt"
    python = str(folder / "bin" / "python")
    return [
        (f"creating the environment {folder}", [uv, "venv", "--clear", "--python", sys.executable, str(folder)]),
        ("writing down what is wanted", [sys.executable, "-c", _WRITE, str(wanted), f"vllm=={version}"]),
        (
            f"choosing the packages for vLLM {version}",
            [uv, "pip", "compile", "--python", python, f"--excludes={pins / 'excluded.txt'}", "--quiet",
             str(pins / "runtime.in"), str(wanted), "-o", str(pinned)],
        ),
        ("installing them (about 4 GB)", [uv, "pip", "install", "--python", python, "--no-deps", "-r", str(pinned)]),
    ]  # fmt: skip


_WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2] + '\\n')"
