import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.installer import Installer
from tools.progress import Progress, SetupError

from tools import setup

ROOT = Path(__file__).parents[2]
MACHINE = ROOT / "server" / "loramux_server" / "machine.py"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were installed, in order: a repository in `tmp_path`, with an installer that only takes notes."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "requirements").mkdir()
    for name in ("cpu", "cuda", "torch-cpu", "dev"):
        (tmp_path / "requirements" / f"{name}.txt").write_text(name)
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup, "PINS", tmp_path / "requirements")
    monkeypatch.setenv("LORAMUX_BACKEND", "cpu")
    notes: list[str] = []

    def noting(name: str) -> Callable[[Installer], None]:
        def install(self: Installer) -> None:
            notes.append(name)
            (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
            (tmp_path / ".venv" / "bin" / "python").touch()

        return install

    monkeypatch.setattr(Installer, "__init__", lambda *_: None)
    for name in ("packages", "project", "development"):
        monkeypatch.setattr(Installer, name, noting(name))
    return notes


def test_a_fresh_folder_gets_the_packages_and_then_loramux(installed: list[str]) -> None:
    setup.set_up("serve")
    assert installed == ["packages", "project"]


def test_what_is_whole_is_left_alone(installed: list[str]) -> None:
    setup.set_up("dev")
    installed.clear()
    setup.set_up("dev")
    setup.set_up("serve")
    assert installed == []


def test_a_containers_build_can_have_the_packages_alone(installed: list[str]) -> None:
    setup.set_up("packages")
    assert installed == ["packages"]


def test_the_tests_needs_come_on_top_of_what_is_there(installed: list[str]) -> None:
    setup.set_up("serve")
    setup.set_up("dev")
    assert installed == ["packages", "project", "development"]


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("requirements/cpu.txt", ["packages"]),
        ("requirements/torch-cpu.txt", ["packages"]),
        ("requirements/dev.txt", ["development"]),
        ("pyproject.toml", ["project"]),
        ("requirements/cuda.txt", []),
    ],
)
def test_only_the_part_whose_inputs_changed_is_made_again(
    installed: list[str], tmp_path: Path, changed: str, again: list[str]
) -> None:
    setup.set_up("dev")
    installed.clear()
    (tmp_path / changed).write_text("changed")
    setup.set_up("dev")
    assert installed == again


def test_another_backend_makes_everything_again(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    setup.set_up("serve")
    installed.clear()
    monkeypatch.setattr(setup, "obstacles", lambda *_: [])
    monkeypatch.setenv("LORAMUX_BACKEND", "cuda")
    setup.set_up("serve")
    assert installed == ["packages", "project"]


def test_a_python_that_has_gone_makes_everything_again(installed: list[str], tmp_path: Path) -> None:
    setup.set_up("serve")
    installed.clear()
    (tmp_path / ".venv" / "bin" / "python").unlink()
    setup.set_up("serve")
    assert installed[0] == "packages"


def test_a_part_that_was_cut_off_is_made_again(
    installed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Installer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Installer, "project", killed)
        assert setup.main([]) == 130
    assert setup.main([]) == 0
    assert installed == ["packages", "project"]


def test_what_is_wrong_with_the_machine_is_told_before_anything_is_installed(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "obstacles", lambda *_: ["no AVX2", "no libnuma"])
    assert setup.main([]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "loramux can't be set up: this machine can't run it",
        "  no AVX2",
        "  no libnuma",
    ]
    assert installed == []


def test_a_full_disk_is_told_before_anything_is_installed(
    installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "DISK_BYTES", 1 << 60)
    with pytest.raises(SetupError, match=r"the disk has .* GB left"):
        setup.set_up("serve")
    assert installed == []


def test_an_unknown_backend_is_refused(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_BACKEND", "rocm")
    with pytest.raises(SetupError, match="it can be cpu or cuda"):
        setup.set_up("serve")


def test_uv_is_given_this_python_if_it_will_do_and_else_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    assert setup._python() == sys.executable
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert setup._python() == ">=3.11,<3.15"


def test_a_second_set_up_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    waiting = (
        "from pathlib import Path; from tools import setup; from tools.progress import Progress\n"
        f"setup.ROOT = Path({str(tmp_path)!r})\n"
        "with setup._only_one(Progress()): print('mine')"
    )
    with setup._only_one(Progress()):
        other = subprocess.Popen(
            [sys.executable, "-c", waiting], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert other.stderr is not None
        assert "waiting for another set-up" in other.stderr.readline()
        assert other.poll() is None
    output, _ = other.communicate(timeout=30)
    assert output == "mine\n"


@pytest.mark.parametrize("path", [*(ROOT / "tools").glob("*.py"), MACHINE], ids=lambda path: path.name)
def test_an_old_python_can_parse_the_set_up_and_say_so_itself(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))
