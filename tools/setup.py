"""Makes `.venv`, with everything that loramux needs: `python3 tools/setup.py [packages|serve|dev]`.

`make` calls it every time. What is there already is left alone, so a second run takes a fraction of a second. However a
run ends, the next one goes on from what is whole. Standard library only, and any Python from 3.8 may run it, to say
clearly what is missing.
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
from tools.progress import Progress, SetupError  # noqa: E402

from loramux_server.machine import GIB, PYTHONS, obstacles, this_machine  # noqa: E402

VENV = ROOT / ".venv"
PINS = ROOT / "requirements"
DISK_BYTES = 5 * GIB
LEVELS = {"packages": 1, "serve": 2, "dev": 3}
"""How many layers each level needs; a container's build asks for the first alone, to cache it."""


@dataclass(frozen=True)
class Layer:
    """One part of the environment, over the parts before it: whole when its stamp holds the digest of its inputs."""

    name: str
    digest: str
    install: Callable[[Installer], None]

    @property
    def stamp(self) -> Path:
        """The file that is written last."""
        return VENV / f".{self.name}.stamp"

    def is_whole(self) -> bool:
        """Say whether the environment has this layer, made from its inputs as they are now."""
        try:
            return (VENV / "bin" / "python").exists() and self.stamp.read_text(encoding="ascii") == self.digest
        except (OSError, ValueError):
            return False


def main(arguments: list[str]) -> int:
    """Bring the environment up to date; 0 when it is, 1 with a reason when that can't be."""
    parser = argparse.ArgumentParser(prog="tools/setup.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("level", nargs="?", choices=LEVELS, default="serve", help="what it is for (default: serve)")
    options = parser.parse_args(arguments)
    try:
        set_up(options.level)
    except SetupError as error:
        print(f"loramux can't be set up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def set_up(level: str) -> None:
    """Check the machine, then install the layers that are missing or out of date; raises SetupError."""
    backend = _backend()
    layers = _layers(backend)[: LEVELS[level]]
    if all(layer.is_whole() for layer in layers):
        return
    _check_disk()
    progress = Progress()
    with _only_one(progress) as lock:
        installer = Installer(ROOT, VENV, backend, _python(), progress, lock)
        for layer in layers:
            if not layer.is_whole():
                layer.install(installer)
                layer.stamp.write_text(layer.digest, encoding="ascii")
    progress.say("everything is installed")


def _layers(backend: str) -> list[Layer]:
    pins = [PINS / f"{backend}.txt", PINS / "torch-cpu.txt"]
    return [
        Layer("packages", _digest(backend, *pins), Installer.packages),
        Layer("loramux", _digest(backend, ROOT / "pyproject.toml"), Installer.project),
        Layer("development", _digest(backend, PINS / "dev.txt"), Installer.development),
    ]


def _digest(backend: str, *inputs: Path) -> str:
    return hashlib.sha256(b"\0".join([backend.encode(), *(path.read_bytes() for path in inputs)])).hexdigest()


def _backend() -> str:
    machine = this_machine(ROOT)
    backend = os.environ.get("LORAMUX_BACKEND") or machine.backend
    if backend not in ("cpu", "cuda"):
        raise SetupError(f"LORAMUX_BACKEND is {backend!r}: it can be cpu or cuda")
    if found := obstacles(machine, backend):
        raise SetupError("\n  ".join(["this machine can't run it", *found]))
    return backend


def _python() -> str:
    """What uv is to make the environment with: this Python if it will do, else any that will."""
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return sys.executable
    return f">={PYTHONS[0][0]}.{PYTHONS[0][1]},<{PYTHONS[1][0]}.{PYTHONS[1][1] + 1}"


def _check_disk() -> None:
    free = shutil.disk_usage(str(ROOT)).free
    if free < DISK_BYTES:
        raise SetupError(
            f"the disk has {free / GIB:.1f} GB left and the packages need {DISK_BYTES / GIB:.0f}: free some"
        )


@contextmanager
def _only_one(progress: Progress) -> Iterator[int]:
    # Not at the top: Windows has no fcntl, and must still hear why it is refused.
    import fcntl

    folder = ROOT / ".tools"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("waiting for another set-up to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
