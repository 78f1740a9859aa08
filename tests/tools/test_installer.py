from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tools.installer import Installer
from tools.steps import SetupError

from tools import installer


class Runner:
    """Records what is run; commands with one of `failing` in them fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.ran: list[str] = []
        self.logged: list[str] = []

    def log(self, message: str) -> None:
        self.logged.append(message)

    def run(self, step: str, command: Sequence[str], environment: Mapping[str, str], lock: int) -> None:
        self.ran.append(" ".join(command))
        if any(part in self.ran[-1] for part in self.failing):
            raise SetupError(f"{step}: failed")


def install(root: Path, monkeypatch: pytest.MonkeyPatch, runner: Runner, backend: str = "cpu") -> list[str]:
    """Install the packages; returns the last words of the commands that were run after the environment's creation."""
    monkeypatch.setattr(installer, "find_uv", lambda *_: "uv")
    monkeypatch.setattr(installer, "uv_environment", lambda _: {})
    Installer(root, root / ".venv", backend, "python3", runner, 0).install_packages()  # type: ignore[arg-type]
    return [Path(command).name for command in runner.ran[1:]]


def test_torch_comes_first_then_torchvision_then_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = install(tmp_path, monkeypatch, Runner())
    assert installed == ["torch-cpu.txt", "torchvision-cpu.txt", "cpu.txt"]


def test_the_setup_goes_on_without_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner("torchvision-cpu.txt")
    installed = install(tmp_path, monkeypatch, runner)
    assert installed == ["torch-cpu.txt", "torchvision-cpu.txt", "torchvision-cpu.txt", "cpu.txt"]
    assert runner.logged == ["torchvision has no CPU build here: all bases but multimodal ones can be served"]


def test_the_setup_does_not_go_on_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="installing torch for the CPU"):
        install(tmp_path, monkeypatch, Runner("torch-cpu.txt"))


@pytest.mark.parametrize(("backend", "installed"), [("cpu", 1), ("cuda", 0)])
def test_triton_for_tests_is_installed_apart_and_only_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, installed: int
) -> None:
    runner = Runner()
    monkeypatch.setattr(installer, "find_uv", lambda *_: "uv")
    monkeypatch.setattr(installer, "uv_environment", lambda _: {})
    Installer(tmp_path, tmp_path / ".venv", backend, "python3", runner, 0).install_triton()  # type: ignore[arg-type]
    assert len(runner.ran) == installed
    assert all(f"--target {tmp_path / '.venv' / 'triton'}" in command for command in runner.ran)


def test_a_gpu_gets_torchvision_with_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "compiler_problem", lambda _: None)
    assert install(tmp_path, monkeypatch, Runner(), "cuda") == ["cuda.txt"]


def test_nothing_is_downloaded_for_a_gpu_where_kernels_can_not_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU-8: a missing Python.h was found by vLLM, after 4 GB of downloads."""
    asked: list[str] = []
    runner = Runner()

    def problem(python: str) -> str:
        asked.append(python)
        return "no Python.h: apt-get install python3.12-dev"

    monkeypatch.setattr(installer, "compiler_problem", problem)
    with pytest.raises(SetupError, match=r"apt-get install python3\.12-dev"):
        install(tmp_path, monkeypatch, runner, "cuda")
    assert asked == [str(tmp_path / ".venv" / "bin" / "python")]
    assert [command.split()[1] for command in runner.ran] == ["venv"]
