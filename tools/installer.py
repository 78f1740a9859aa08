"""Installs the parts of the environment, by uv."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.progress import Progress, SetupError
from tools.uv import find_uv, uv_environment

if TYPE_CHECKING:
    from pathlib import Path

NETWORK_HINT = "Packages come from where pip is told to look (`pip config list`: index-url, find-links, cert)."


class Installer:
    """Fills the environment `venv` of the repository `root` for one backend (`cpu` or `cuda`).

    `python` is the interpreter for it, as uv takes it: a path, or a range of versions. While a program runs, it holds
    the lock's file descriptor.
    """

    def __init__(self, root: Path, venv: Path, backend: str, python: str, progress: Progress, lock: int) -> None:
        self._root, self._venv, self._backend, self._python = root, venv, backend, python
        self._progress, self._lock = progress, lock
        self._pins = root / "requirements"
        private = root / ".tools" / "uv"
        self._uv = find_uv(private, self._pins / "uv.txt", progress, lock)
        self._environment = uv_environment(private)

    def packages(self) -> None:
        """Make the environment anew, with the pinned packages; uv's cache has those that were fetched before."""
        for stamp in self._venv.glob(".*.stamp"):
            stamp.unlink()
        self._run("making the environment .venv", "venv", "--clear", "--python", self._python, str(self._venv))
        if self._backend == "cpu":
            self._torch_cpu()
        words = f"installing vLLM for {self._backend.upper()} and the rest (about 160 packages)"
        self._install(words, "-r", self._pins / f"{self._backend}.txt")

    def project(self) -> None:
        """Install loramux itself, in place: changes to its source show at once."""
        self._install("installing loramux", "-e", self._root)

    def development(self) -> None:
        """Install what the tests and the linters need."""
        self._install("installing what the tests need", "-r", self._pins / "dev.txt")

    def _torch_cpu(self) -> None:
        pin = self._pins / "torch-cpu.txt"
        try:
            self._install("installing torch for the CPU", "-r", pin)
        except SetupError:
            # PyPI has no CPU build; uv knows where PyTorch keeps them.
            self._install("installing torch for the CPU from PyTorch", "--torch-backend=cpu", "-r", pin)

    def _install(self, words: str, *arguments: str | Path) -> None:
        python = str(self._venv / "bin" / "python")
        try:
            self._run(words, "pip", "install", "--python", python, "--no-deps", *map(str, arguments))
        except SetupError as error:
            raise SetupError(f"{error}\n  {NETWORK_HINT}") from None

    def _run(self, words: str, *arguments: str) -> None:
        self._progress.run(words, [self._uv, *arguments], self._environment, self._lock)
