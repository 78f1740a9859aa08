"""Creates `.venv` with everything that loramux needs: `python3 tools/setup.py [packages|serve|dev]`.

`make` runs it before each target. Layers that are up to date are skipped, so a second run takes a fraction of a second.
After an interruption, the next run continues after the last complete layer. It uses the standard library only and runs
on any Python from 3.8, so that an old one gets a clear message.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "server")]

from tools.installer import Installer  # noqa: E402
from tools.steps import SetupError, StepRunner  # noqa: E402
from tools.uv import cache_folder  # noqa: E402

from loramux_server.machine import GIB, PYTHONS, explain_engine, find_problems, this_machine  # noqa: E402

VENV = ROOT / ".venv"
PINS = ROOT / "requirements"
DISK_BYTES = {"cpu": 5 * GIB, "cuda": 12 * GIB}
"""Free space for the packages: for CUDA, downloads of 4.2 GB, which are 8 GB on the disk."""
SMALL_LAYER_BYTES = GIB
"""Free space for each layer on top of the packages."""
LEVELS = {"packages": 1, "serve": 2, "dev": 4}
"""Number of layers of each level; a container build installs the first one separately, to cache it."""


@dataclass(frozen=True)
class SetupLayer:
    """One layer of the environment, on top of the ones before: up to date if its stamp has the digest of its inputs."""

    name: str
    digest: str
    install: Callable[[Installer], None]

    @property
    def stamp(self) -> Path:
        """The file that is written when the layer is complete."""
        return VENV / f".{self.name}.stamp"

    def is_current(self) -> bool:
        """Return whether the environment has this layer, made from the present inputs."""
        try:
            return (VENV / "bin" / "python").exists() and self.stamp.read_text(encoding="ascii") == self.digest
        except (OSError, ValueError):
            return False


def main(arguments: list[str]) -> int:
    """Update the environment and return the exit code: 0, 1 after an error, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="tools/setup.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("level", nargs="?", choices=LEVELS, default="serve", help="what to install (default: serve)")
    options = parser.parse_args(arguments)
    try:
        set_up(options.level)
    except SetupError as error:
        print(f"setup failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def set_up(level: str) -> None:
    """Check the machine, then install the layers that are missing or out of date.

    Raises:
        SetupError: the machine is not suitable, or an installation failed.

    """
    backend, reason = _backend()
    layers = _layers(backend)[: LEVELS[level]]
    if all(layer.is_current() for layer in layers):
        return
    _check_disk(SMALL_LAYER_BYTES if layers[0].is_current() else DISK_BYTES[backend])
    runner = StepRunner()
    runner.log(reason)
    with _setup_lock(runner) as lock:
        installer = Installer(ROOT, VENV, backend, _python_for_uv(), runner, lock)
        for layer in layers:
            if not layer.is_current():
                layer.install(installer)
                layer.stamp.write_text(layer.digest, encoding="ascii")
    runner.log("the environment is up to date")


def _layers(backend: str) -> list[SetupLayer]:
    pins = [PINS / f"{backend}.txt", PINS / "torch-cpu.txt"]
    return [
        SetupLayer("packages", _digest(backend, *pins), Installer.install_packages),
        SetupLayer("loramux", _digest(backend, ROOT / "pyproject.toml"), Installer.install_project),
        SetupLayer("development", _digest(backend, PINS / "dev.txt"), Installer.install_development),
        SetupLayer("triton", _digest(backend, PINS / "triton.txt"), Installer.install_triton),
    ]


def _digest(backend: str, *inputs: Path) -> str:
    return hashlib.sha256(b"\0".join([backend.encode(), *(path.read_bytes() for path in inputs)])).hexdigest()


def _backend() -> tuple[str, str]:
    """Return the engine to install, `cpu` or `cuda`, and a sentence that says why."""
    machine = this_machine(ROOT)
    wanted = os.environ.get("LORAMUX_BACKEND")
    backend = wanted or machine.backend
    if backend not in ("cpu", "cuda"):
        raise SetupError(f"unknown LORAMUX_BACKEND {backend!r}; expected cpu or cuda")
    if found := find_problems(machine, backend):
        raise SetupError("\n  ".join(["this machine can't run loramux", *found]))
    if wanted and wanted != machine.backend:
        return backend, f"vLLM for {backend.upper()}, because LORAMUX_BACKEND says so"
    return backend, explain_engine(machine, backend)


def _python_for_uv() -> str:
    """Return the Python for the environment in uv's syntax: this one if it is supported, else the supported range."""
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return sys.executable
    return f">={PYTHONS[0][0]}.{PYTHONS[0][1]},<{PYTHONS[1][0]}.{PYTHONS[1][1] + 1}"


def _check_disk(needed: int) -> None:
    """Check the disk of the environment, and that of uv's cache: on one disk, they share the files."""
    cache = cache_folder(os.environ)
    if (free := shutil.disk_usage(str(ROOT)).free) < needed:
        raise SetupError(
            f"the disk has {free / GIB:.1f} GB free, and the packages need {needed / GIB:.0f} GB: free some space"
        )
    if cache.stat().st_dev != ROOT.stat().st_dev and (free := shutil.disk_usage(str(cache)).free) < needed:
        raise SetupError(
            f"the disk of uv's cache ({cache}) has {free / GIB:.1f} GB free, and the packages need "
            f"{needed / GIB:.0f} GB: free some space, or set UV_CACHE_DIR to a folder on another disk"
        )


@contextmanager
def _setup_lock(runner: StepRunner) -> Iterator[int]:
    # Imported here: Windows has no fcntl, and this script must still say there that Windows is not supported.
    import fcntl

    folder = ROOT / ".tools"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            runner.log("waiting for another setup to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
