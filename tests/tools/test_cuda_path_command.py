"""The command that starts the tests of the CUDA path: it starts them, or says why not and what to do."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.cuda_path import __main__ as command
from tests.helpers.cuda_path import environment


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the process was replaced by: the arguments and the environment; Triton is in `tmp_path`."""
    calls: list[Any] = []

    def replace_process(_: str, arguments: list[str], variables: dict[str, str]) -> None:
        calls.extend([arguments, variables])

    (tmp_path / "triton").mkdir()
    monkeypatch.setattr(environment, "TRITON", tmp_path)
    monkeypatch.setattr(command, "has_cpu_build", lambda: True)
    monkeypatch.setattr(os, "execve", replace_process)
    return calls


@pytest.mark.parametrize(
    ("arguments", "paths"), [([], list(command.PATHS)), (["-k", "NaN"], list(command.PATHS)), (["tests/tools"], [])]
)
def test_the_tests_are_started_in_the_environment_of_the_path(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], paths: list[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    command.main(arguments)
    run, variables = started
    assert run[1:] == ["-m", "pytest", "-m", "cuda_path", *arguments, *paths]
    assert variables["PYTHONPATH"].split(os.pathsep)[-1] == "/mine"
    assert not environment.is_cuda_path()
    monkeypatch.setattr(os, "environ", variables)
    assert environment.is_cuda_path()


def test_without_triton_they_fail_and_say_what_to_do(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "TRITON", tmp_path / "missing")
    with pytest.raises(SystemExit, match="run `make dev`"):
        command.main([])
    assert not started


def test_with_vllms_cuda_build_there_is_nothing_to_run(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "has_cpu_build", lambda: False)
    with pytest.raises(SystemExit) as ended:
        command.main([])
    assert ended.value.code is None
    assert "-m engine" in capsys.readouterr().err
    assert not started
