"""Chromium for the browser tests: the installed one, or Debian's, unpacked into `.tools` without root."""

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / ".tools" / "chromium"
TIMEOUT_SECONDS = 300
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"]
"""No sandbox: it does not work as root or in containers, and the tests only open the dashboard."""


@dataclass(frozen=True)
class Chromium:
    """A browser's path, and the environment variables of its process."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)


@functools.cache
def find_chromium() -> Chromium | str:
    """Return a Chromium, or the reason why there is none."""
    for name in ("chromium", "chromium-browser"):
        if found := shutil.which(name):
            return Chromium(Path(found))
    try:
        return _unpacked()
    except (OSError, subprocess.SubprocessError) as error:
        return f"no Chromium is installed, and Debian's could not be unpacked: {error}"


def _unpacked() -> Chromium:
    stamp = FOLDER / ".whole"
    if not stamp.exists():
        _unpack(FOLDER)
        stamp.touch()
    libraries = sorted({str(path.parent) for path in FOLDER.rglob("*.so*")})
    return Chromium(FOLDER / "usr/lib/chromium/chromium", {"LD_LIBRARY_PATH": os.pathsep.join(libraries)})


def _unpack(folder: Path) -> None:
    """Download Chromium and its missing libraries, and unpack them in `folder`."""
    state, packages = folder / "apt", folder / "packages"
    for needed in (state / "lists" / "partial", state / "cache" / "archives" / "partial", packages):
        needed.mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-qq", "-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
    _run([*apt, "update"], packages)
    plan = _run([*apt, "--simulate", "--no-install-recommends", "install", "chromium"], packages)
    names = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    _run([*apt, "download", *names], packages)
    for package in packages.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(folder)], packages)
    shutil.rmtree(packages)


def _run(command: list[str], folder: Path) -> str:
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS)
    return process.stdout
