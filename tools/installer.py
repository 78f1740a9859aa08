"""Installs the layers of the environment with uv."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.steps import SetupError, StepRunner
from tools.uv import find_uv, uv_environment

from loramux_server.c_compiler import compiler_problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NETWORK_HINT = "Packages come from the index in pip's configuration (`pip config list`: index-url, find-links, cert)."


class Installer:
    """Installs packages into the environment `venv` of the repository `root` for one backend (`cpu` or `cuda`).

    `python` is its interpreter in uv's syntax: a path, or a range of versions. `lock` is the file descriptor that the
    programs inherit.
    """

    def __init__(self, root: Path, venv: Path, backend: str, python: str, runner: StepRunner, lock: int) -> None:
        self._root, self._venv, self._backend, self._python = root, venv, backend, python
        self._runner, self._lock = runner, lock
        self._pins = root / "requirements"
        private = root / ".tools" / "uv"
        self._uv = find_uv(private, self._pins / "uv.txt", runner, lock)
        self._environment = uv_environment(private)

    def install_packages(self) -> None:
        """Create the environment again, with the pinned packages; uv takes known ones from its cache.

        Raises:
            SetupError: the packages can't be installed, or vLLM could not compile its kernels with them.

        """
        for stamp in self._venv.glob(".*.stamp"):
            stamp.unlink()
        self._run("creating the environment .venv", "venv", "--clear", "--python", self._python, str(self._venv))
        if self._backend == "cuda":
            self._check_compiler()
        if self._backend == "cpu":
            self._torch_cpu()
            self._torchvision_cpu()
        step = f"installing vLLM for {self._backend.upper()} and its dependencies (about 160 packages)"
        self._install(step, "-r", self._pins / f"{self._backend}.txt")

    def install_project(self) -> None:
        """Install loramux itself, editable: changes to its source take effect without a new installation."""
        self._install("installing loramux", "-e", self._root)

    def install_development(self) -> None:
        """Install the dependencies of the tests, the linters and the documentation."""
        self._install("installing the development tools", "-r", self._pins / "dev.txt")

    def install_triton(self) -> None:
        """Install Triton for tests, where only they find it: with it in the environment, vLLM behaves differently."""
        if self._backend == "cpu":
            folder = ("--target", self._venv / "triton")
            self._install("installing Triton for the tests of the CUDA path", *folder, "-r", self._pins / "triton.txt")

    def _check_compiler(self) -> None:
        """Check what vLLM would miss only after gigabytes were downloaded."""
        if problem := compiler_problem(str(self._venv / "bin" / "python")):
            raise SetupError(problem)

    def _torch_cpu(self) -> None:
        pin = self._pins / "torch-cpu.txt"
        try:
            self._install("installing torch for the CPU", "-r", pin)
        except SetupError:
            # PyPI has no CPU build; uv knows PyTorch's own index.
            self._install("installing torch for the CPU from PyTorch's index", "--torch-backend=cpu", "-r", pin)

    def _torchvision_cpu(self) -> None:
        """Install it from where torch can come from, or go on without it: few bases need it."""
        pin, step = self._pins / "torchvision-cpu.txt", "installing torchvision for multimodal bases"
        once = {**self._environment, "UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "15"}
        for where in ([], ["--torch-backend=cpu"]):
            try:
                self._run(step, *self._into_venv(), *where, "-r", str(pin), environment=once)
            except SetupError:
                step = "installing torchvision from PyTorch's index"
            else:
                return
        self._runner.log("torchvision has no CPU build here: all bases but multimodal ones can be served")

    def _install(self, step: str, *arguments: str | Path) -> None:
        try:
            self._run(step, *self._into_venv(), *map(str, arguments))
        except SetupError as error:
            raise SetupError(f"{error}\n  {NETWORK_HINT}") from None

    def _into_venv(self) -> tuple[str, ...]:
        return "pip", "install", "--python", str(self._venv / "bin" / "python"), "--no-deps"

    def _run(self, step: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._runner.run(step, [self._uv, *arguments], environment or self._environment, self._lock)
