"""`loramux data`: its messages; tests/adapters/finetuning/datasets has the conversion itself."""

import json
from pathlib import Path

from typer.testing import CliRunner

from loramux_server.cli.main import main

PAIR = {"instruction": "Say hi", "input": "", "output": "hi", "id": 1}


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["data", "convert", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_the_result_is_named_with_its_formats_and_warnings(tmp_path: Path) -> None:
    source, target = tmp_path / "alpaca.json", tmp_path / "train.jsonl"
    source.write_text(json.dumps([PAIR, PAIR]))
    code, stdout, stderr = run(source, target)
    assert (code, stdout) == (0, f"{target}: 2 conversations, for supervised training\n")
    assert stderr.splitlines() == ["2 examples: Alpaca's format", "warning: the key `id` is ignored (lines with it: 2)"]
    assert len(target.read_text().splitlines()) == 2


def test_examples_that_cant_be_converted_are_named_and_the_way_out(tmp_path: Path) -> None:
    source, target = tmp_path / "alpaca.json", tmp_path / "train.jsonl"
    source.write_text(json.dumps([PAIR, PAIR | {"output": ""}]))
    code, stdout, stderr = run(source, target)
    assert (code, stdout, target.exists()) == (1, "", False)
    assert "line 2: messages.1: content: the assistant's message is empty" in stderr
    assert stderr.endswith("Nothing was written: correct the file, or leave such examples out with --skip-invalid\n")
    code, stdout, stderr = run(source, target, "--skip-invalid", "--json")
    assert code == 0
    assert json.loads(stdout)["left_out"] == 1


def test_an_existing_file_is_exit_2(tmp_path: Path) -> None:
    source = tmp_path / "a.json"
    source.write_text(json.dumps([PAIR]))
    assert run(source, source)[0] == 2
