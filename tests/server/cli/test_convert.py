"""`loramux adapter convert`: its messages; tests/adapters/conversion has the conversion itself."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from loramux_adapters.conversion import converter
from loramux_server.cli.main import main


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["adapter", "convert", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_the_result_names_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A12: a `.bin` of older PEFT releases."""
    monkeypatch.setattr(converter, "convert", lambda _source, _target: 84)
    code, stdout, _ = run(tmp_path, tmp_path / "new")
    assert code == 0
    assert stdout == f"{tmp_path / 'new'}: 84 tensors. Add it with: loramux adapter add NAME {tmp_path / 'new'}\n"


@pytest.mark.parametrize("target", ["", "new"])
def test_an_adapter_that_can_t_be_converted_is_one_line_and_exit_1(tmp_path: Path, target: str) -> None:
    (tmp_path / "adapter_model.bin").touch()
    code, stdout, stderr = run(tmp_path, tmp_path / target)
    assert (code, stdout) == (1, "")
    assert stderr.splitlines()[-1].endswith("the file is missing" if target else "exists")
