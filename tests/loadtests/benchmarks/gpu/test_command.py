"""The command of the GPU benchmark, and the whole benchmark at a tiny size on the real engine of this machine."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.gpu import command
from benchmarks.gpu.command import main
from benchmarks.gpu.options import GpuOptions
from benchmarks.gpu.parts import TableCell
from benchmarks.gpu.stored import StoredPart, read_parts, store_part

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "loadtests" / "benchmarks" / "gpu" / "run.py"

app = typer.Typer()
app.command()(main)


def test_an_unknown_part_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["--tiny", "--part", "stok", "--output", str(tmp_path)])
    assert found.exit_code == 2
    assert (
        "unknown part stok; expected correct, nan-stock, context, loramux, stock, stock-without-lora, many"
        in " ".join(found.output.split())
    )


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    store_part("stock", StoredPart(GpuOptions(tiny=True).about), 0.0, tmp_path)
    before = (tmp_path / "gpu-stock.json").read_bytes()
    assert CliRunner().invoke(app, ["--tiny", "--part", "stock", "--output", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "gpu-stock.json").read_bytes() == before


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that would be measured."""
    names: list[str] = []
    monkeypatch.setattr(command, "_measure", lambda parts, *_: names.extend(parts))
    return names


CELL = TableCell("stock", "base", 10, 0, 7654.0, 0.1, 0.2, 0.01)


@pytest.mark.parametrize(
    ("gpu_options", "difference"),
    [
        (GpuOptions(tiny=True), "engine, shape, size"),
        (GpuOptions(engine={"max_num_seqs": 1}), "engine"),
        (GpuOptions(tokenizer=Path("other")), "tokenizer"),
    ],
)
def test_a_part_with_other_options_is_ignored_and_measured_again(
    tmp_path: Path, measured: list[str], gpu_options: GpuOptions, difference: str
) -> None:
    store_part("stock", StoredPart(gpu_options.about, [CELL]), 0.0, tmp_path)
    found = CliRunner().invoke(app, ["--output", str(tmp_path)])
    assert measured == ["correct", "nan-stock", "context", "loramux", "stock", "stock-without-lora", "many"]
    assert f"is ignored: its options differ in {difference}" in " ".join(found.output.split())
    assert "7654" not in found.output


def test_a_table_is_of_the_parts_that_were_measured_with_its_options(tmp_path: Path) -> None:
    store_part("stock", StoredPart(GpuOptions(engine={"max_num_seqs": 1}).about, [CELL]), 0.0, tmp_path)
    options = ["--table", "--output", str(tmp_path), "--engine"]
    assert "7654" in CliRunner().invoke(app, [*options, "max_num_seqs=1"]).output
    assert "7654" not in CliRunner().invoke(app, [*options, "max_num_seqs=2"]).output


def test_a_part_with_failed_requests_is_measured_again(tmp_path: Path, measured: list[str]) -> None:
    for name, cell in (("stock", CELL), ("loramux", replace(CELL, failed=1))):
        store_part(name, StoredPart(GpuOptions().about, [cell]), 0.0, tmp_path)
    assert CliRunner().invoke(app, ["--output", str(tmp_path)]).exit_code == 1
    assert measured == ["correct", "nan-stock", "context", "loramux", "stock-without-lora", "many"]


def test_a_trial_run_has_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store_part("stock", StoredPart(GpuOptions(tiny=True).about, [CELL]), 0.0, Path("gpu-results-tiny"))
    assert "7654" in CliRunner().invoke(app, ["--table", "--tiny"]).output
    assert "7654" not in CliRunner().invoke(app, ["--table"]).output


def test_only_the_script_installs(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["--install", "0.33.0", "--output", str(tmp_path)])
    assert found.exit_code == 2
    assert "--install is an option of" in found.output


def _run(output: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    """Run the script at a tiny size, as on a machine where loramux is not installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = [option for part in parts for option in ("--part", part)]
    command = [sys.executable, str(SCRIPT), "--tiny", *options, "--output", str(output)]
    return subprocess.run(command, env=environment, cwd=output, capture_output=True, text=True, check=False)


@pytest.mark.engine
def test_the_speed_part_at_a_tiny_size_measures_a_server_without_a_failure(tmp_path: Path) -> None:
    done = _run(tmp_path, "stock")  # only one: each start of a server takes a while
    assert done.returncode == 0, done.stderr
    parts = read_parts(tmp_path)
    cells = [cell for part in parts.values() for cell in part.cells]
    assert [cell.server for cell in cells] == ["stock"] * 4
    assert all(cell.failed == 0 and cell.throughput > 0 and cell.tpot_p50 > 0 for cell in cells)
    [gaps] = parts["stock"].gaps
    assert gaps.loads == 2
    assert 0 < gaps.usual <= gaps.warm
    assert gaps.loading <= gaps.worst


@pytest.mark.engine
def test_the_correctness_part_at_a_tiny_size_passes(tmp_path: Path) -> None:
    """GPU-4: the start on a base whose context does not fit is one of the checks."""
    done = _run(tmp_path, "correct", "nan-stock", "context")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = [each for part in read_parts(tmp_path).values() for each in part.checks]
    assert [each.passed for each in checks if each.server == "loramux"] == [True] * 5
    [control] = [each for each in checks if each.server == "stock"]
    assert control.passed is None
    assert "of 24 answers of the base changed" in control.measured
    assert "log-probabilities as by PEFT, mixed batches" in [each.check for each in checks]
