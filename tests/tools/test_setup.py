import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from tools.installer import Installer
from tools.steps import SetupError, StepRunner

from loramux_server.gpus import Gpu
from loramux_server.machine import this_machine
from tools import setup

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server" / "loramux_server"
NEEDED = ("__init__.py", "c_compiler.py", "gpus.py", "machine.py")
"""Modules of the server that the setup imports, before anything is installed."""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The installed layers in order, for a repository in `tmp_path` and an installer that only records its calls."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "requirements").mkdir()
    for name in ("cpu", "cuda", "torch-cpu", "dev", "triton"):
        (tmp_path / "requirements" / f"{name}.txt").write_text(name)
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "PINS", tmp_path / "requirements")
    monkeypatch.setenv("LORAMUX_BACKEND", "cpu")
    calls: list[str] = []

    def recording(name: str) -> Callable[[Installer], None]:
        def install(self: Installer) -> None:
            calls.append(name)
            (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
            (tmp_path / ".venv" / "bin" / "python").touch()

        return install

    monkeypatch.setattr(Installer, "__init__", lambda *_: None)
    for name in ("packages", "project", "development", "triton"):
        monkeypatch.setattr(Installer, f"install_{name}", recording(name))
    return calls


def test_a_fresh_folder_gets_the_packages_and_then_loramux(installed: list[str]) -> None:
    setup.set_up("serve")
    assert installed == ["packages", "project"]


def test_layers_that_are_up_to_date_are_skipped(installed: list[str]) -> None:
    setup.set_up("dev")
    installed.clear()
    setup.set_up("dev")
    setup.set_up("serve")
    assert installed == []


def test_a_container_build_can_install_the_packages_alone(installed: list[str]) -> None:
    setup.set_up("packages")
    assert installed == ["packages"]


def test_the_development_tools_are_added_to_an_existing_environment(installed: list[str]) -> None:
    setup.set_up("serve")
    setup.set_up("dev")
    assert installed == ["packages", "project", "development", "triton"]


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("requirements/cpu.txt", ["packages"]),
        ("requirements/torch-cpu.txt", ["packages"]),
        ("requirements/dev.txt", ["development"]),
        ("requirements/triton.txt", ["triton"]),
        ("pyproject.toml", ["project"]),
        ("requirements/cuda.txt", []),
    ],
)
def test_only_the_layer_whose_inputs_changed_is_installed_again(
    installed: list[str], tmp_path: Path, changed: str, again: list[str]
) -> None:
    setup.set_up("dev")
    installed.clear()
    (tmp_path / changed).write_text("changed")
    setup.set_up("dev")
    assert installed == again


def test_another_backend_installs_everything_again(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    setup.set_up("serve")
    installed.clear()
    monkeypatch.setattr(setup, "find_problems", lambda *_: [])
    monkeypatch.setenv("LORAMUX_BACKEND", "cuda")
    setup.set_up("serve")
    assert installed == ["packages", "project"]


def test_a_missing_python_installs_everything_again(installed: list[str], tmp_path: Path) -> None:
    setup.set_up("serve")
    installed.clear()
    (tmp_path / ".venv" / "bin" / "python").unlink()
    setup.set_up("serve")
    assert installed[0] == "packages"


def test_an_interrupted_layer_is_installed_again(
    installed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Installer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Installer, "install_project", killed)
        assert setup.main([]) == 130
    assert setup.main([]) == 0
    assert installed == ["packages", "project"]


def test_problems_of_the_machine_are_printed_before_anything_is_installed(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "find_problems", lambda *_: ["no AVX2", "no libnuma"])
    assert setup.main([]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "setup failed: this machine can't run loramux",
        "  no AVX2",
        "  no libnuma",
    ]
    assert installed == []


class Disk(NamedTuple):
    free: int


@pytest.mark.parametrize(("backend", "gigabytes"), [("cpu", 5), ("cuda", 12)])
def test_a_full_disk_is_reported_before_anything_is_installed(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, backend: str, gigabytes: int
) -> None:
    """GPU-8: for CUDA, 5 GB were enough to begin."""
    monkeypatch.setenv("LORAMUX_BACKEND", backend)
    monkeypatch.setattr(setup, "find_problems", lambda *_: [])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk((gigabytes << 30) - 1))
    with pytest.raises(SetupError, match=rf"the disk has .* GB free, and the packages need {gigabytes} GB"):
        setup.set_up("serve")
    assert installed == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(gigabytes << 30))
    setup.set_up("serve")
    assert installed == ["packages", "project"]


def test_the_disk_of_the_cache_is_checked_too(
    installed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU-8."""
    monkeypatch.setattr(setup, "cache_folder", lambda _: Path("/proc"))  # surely another file system
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0 if path == "/proc" else 99 << 30))
    with pytest.raises(SetupError, match=r"uv's cache \(/proc\) has 0.0 GB free.*UV_CACHE_DIR"):
        setup.set_up("serve")
    assert installed == []


def test_a_small_layer_needs_no_room_for_the_packages(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    setup.set_up("serve")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(2 << 30))
    setup.set_up("dev")
    assert "development" in installed


@pytest.mark.parametrize(("wanted", "reason"), [("", "because no GPU was found"), ("cpu", "because no GPU was found")])
def test_the_engine_is_named_with_the_reason_for_it(
    installed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wanted: str,
    reason: str,
) -> None:
    """GPU-7."""
    monkeypatch.setenv("LORAMUX_BACKEND", wanted)
    machine = replace(this_machine(ROOT), gpus=(), gpu_problem=None)
    monkeypatch.setattr(setup, "this_machine", lambda _: machine)
    setup.set_up("serve")
    assert f"vLLM for CPU, {reason}" in capsys.readouterr().err


def test_an_engine_that_was_asked_for_is_named_as_such(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPU-7."""
    gpu = Gpu("NVIDIA H100", 80 << 30, 580, (9, 0))
    machine = replace(this_machine(ROOT), gpus=(gpu,), gpu_problem=None)
    monkeypatch.setattr(setup, "this_machine", lambda _: machine)
    setup.set_up("serve")
    assert "vLLM for CPU, because LORAMUX_BACKEND says so" in capsys.readouterr().err


def test_an_unknown_backend_is_refused(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_BACKEND", "rocm")
    with pytest.raises(SetupError, match="expected cpu or cuda"):
        setup.set_up("serve")


def test_uv_gets_this_python_if_it_is_supported_and_else_the_supported_range(monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup._python_for_uv() == sys.executable
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert setup._python_for_uv() == ">=3.11,<3.15"


def test_a_second_setup_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    waiting = (
        "from pathlib import Path; from tools import setup; from tools.steps import StepRunner\n"
        f"setup.ROOT = Path({str(tmp_path)!r})\n"
        "with setup._setup_lock(StepRunner()): print('mine')"
    )
    with setup._setup_lock(StepRunner()):
        other = subprocess.Popen(
            [sys.executable, "-c", waiting], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert other.stderr is not None
        assert "waiting for another setup to finish" in other.stderr.readline()
        assert other.poll() is None
    output, _ = other.communicate(timeout=30)
    assert output == "mine\n"


@pytest.mark.parametrize(
    "path", [*(ROOT / "tools").glob("*.py"), *(SERVER / name for name in NEEDED)], ids=lambda path: path.name
)
def test_an_old_python_can_parse_the_setup_and_print_that_it_is_too_old(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


def test_the_setup_imports_no_other_modules_of_the_server() -> None:
    program = (
        "import sys; from tools import setup; from pathlib import Path\n"
        "print(*sorted(Path(m.__file__).name for n, m in sys.modules.items() if n.startswith('loramux_server')))"
    )
    command = [sys.executable, "-S", "-c", program]  # without the environment's packages
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.split() == sorted(NEEDED)


def test_a_container_build_copies_the_modules_before_it_installs_the_packages() -> None:
    before = (ROOT / "Dockerfile").read_text().partition("RUN python3 tools/setup.py packages")[0]
    assert [name for name in NEEDED if f"server/loramux_server/{name}" not in before] == []
