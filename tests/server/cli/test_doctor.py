import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from loramux_server.cli import doctor as command
from loramux_server.machine import this_machine


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(command.doctor)
    return app


def test_a_supported_machine_is_described_with_exit_code_0(app: typer.Typer) -> None:
    result = CliRunner().invoke(app)
    assert result.exit_code == 0
    assert "this machine can run loramux" in result.stdout


def test_json_has_the_same_content(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--json"])
    report = json.loads(result.stdout)
    assert (report["can_run"], report["obstacles"]) == (True, [])
    assert report["machine"]["cores"] == this_machine(tmp_path).cores
    assert set(report["machine"]["instructions"]) == this_machine(tmp_path).instructions


def test_an_unsupported_machine_is_reported_with_exit_code_1(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "this_machine", lambda folder: replace(this_machine(folder), system="Windows"))
    result = CliRunner().invoke(app)
    assert result.exit_code == 1
    assert "WSL2" in result.stdout
    assert json.loads(CliRunner().invoke(app, ["--json"]).stdout)["can_run"] is False
