"""Whether Triton can compile here: vLLM's kernels for GPUs need a C compiler and Python's headers when they first run.

As `machine`, this uses only the standard library and syntax of Python 3.8: the setup script imports it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROGRAM = "#include <Python.h>\n#include <stdlib.h>\nint loramux(void) { return 0; }\n"
_INCLUDE = (
    "import sys, sysconfig; print(sysconfig.get_path('include', 'posix_prefix')); print('%d.%d' % sys.version_info[:2])"
)


def compiler_problem(python: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why Triton can't compile for the interpreter `python`, and how to fix it; None if it can.

    It compiles a small extension module as Triton does, which takes a fraction of a second.
    """
    compiler = _find_compiler(environ)
    if compiler is None:
        named = environ.get("CC")
        searched = f"CC names {named}" if named else "neither gcc nor clang is there"
        return f"vLLM's kernels need a C compiler, and {searched}: {_install('gcc libc6-dev', 'gcc')}"
    asked = _run([python, "-c", _INCLUDE], environ)
    answer = asked.stdout.splitlines()
    if asked.returncode or len(answer) != 2:
        return f"the Python {python} can't be run: {_last_line(asked)}"
    include, version = answer
    if not (Path(include) / "Python.h").is_file():
        packages = _install(f"python{version}-dev", f"python{version}-devel")
        return f"vLLM's kernels need the headers of Python {version}, and {include} has no Python.h: {packages}"
    compiled = _compile(compiler, include, environ)
    if compiled.returncode:
        return f"the C compiler {compiler} fails ({_last_line(compiled)}): {_install('gcc libc6-dev', 'gcc')}"
    return None


def _find_compiler(environ: Mapping[str, str]) -> str | None:
    """Return Triton's choice: CC, else gcc, else clang."""
    names = [environ["CC"]] if "CC" in environ else ["gcc", "clang"]
    paths = (shutil.which(name, path=environ.get("PATH")) for name in names)
    return next((path for path in paths if path), None)


def _compile(compiler: str, include: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        source, module = Path(folder) / "main.c", Path(folder) / "main.so"
        source.write_text(_PROGRAM, encoding="ascii")
        return _run([compiler, str(source), "-shared", "-fPIC", "-o", str(module), f"-I{include}"], environ)


def _run(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=60, check=False, env=dict(environ)
        )
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _last_line(failed: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (failed.stderr + failed.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line] or lines[-1:]
    return errors[0].strip()[:200] if errors else f"exit code {failed.returncode}"


def _install(debian: str, fedora: str) -> str:
    return f"`apt-get install {debian}` (Fedora, RHEL: `dnf install {fedora}`)"
