"""The environment for a version of vLLM, and the command line that asks for it."""

from pathlib import Path

import pytest

from benchmarks.gpu.install import ROOT, commands, install, requested_version


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (None, [])),
        (["--tiny"], (None, ["--tiny"])),
        (["--install", "0.33.0", "--limit", "9"], ("0.33.0", ["--limit", "9"])),
        (["--limit", "9", "--install=0.32.0"], ("0.32.0", ["--limit", "9"])),
        (["--install"], ("", [])),
    ],
)
def test_the_version_is_taken_from_the_command_line(
    arguments: list[str], expected: tuple[str | None, list[str]]
) -> None:
    assert requested_version(arguments) == expected


def test_the_packages_are_chosen_together_and_installed_without_others(tmp_path: Path) -> None:
    create, write, choose, add = (command for _, command in commands("uv", "0.33.0", tmp_path, ROOT / "requirements"))
    assert create[:3] == ["uv", "venv", "--clear"]
    assert write[-1] == "vllm==0.33.0"
    assert {write[-2], str(ROOT / "requirements" / "runtime.in")} <= set(choose)
    assert choose[-1] in add
    assert "--no-deps" in add


def test_a_complete_environment_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".complete").touch()
    assert install("0.33.0", tmp_path) == tmp_path / "bin" / "python"
