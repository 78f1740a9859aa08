"""The command of the GPU benchmark, and the whole benchmark at a tiny size on the real engine of this machine."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.gpu import command
from benchmarks.gpu.command import GpuOptions, main
from benchmarks.gpu.parts import ServerPart, TableCell, store_part

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "loadtests" / "benchmarks" / "gpu" / "run.py"

app = typer.Typer()
app.command()(main)


def test_an_unknown_part_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["--tiny", "--part", "stok", "--output", str(tmp_path)])
    assert found.exit_code == 2
    assert "unknown part stok; expected loramux, stock, stock-without-lora, many" in " ".join(found.output.split())


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    store_part(ServerPart("stock", "stock", {}), [], 0.0, tmp_path, GpuOptions(tiny=True).about)
    before = (tmp_path / "gpu-stock.json").read_bytes()
    assert CliRunner().invoke(app, ["--tiny", "--part", "stock", "--output", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "gpu-stock.json").read_bytes() == before


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that would be measured."""
    names: list[str] = []
    monkeypatch.setattr(command, "_measure", lambda parts, *_: names.extend(part.name for part in parts))
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
    store_part(ServerPart("stock", "stock", {}), [CELL], 0.0, tmp_path, gpu_options.about)
    found = CliRunner().invoke(app, ["--output", str(tmp_path)])
    assert measured == ["loramux", "stock", "stock-without-lora", "many"]
    assert f"is ignored: its options differ in {difference}" in " ".join(found.output.split())
    assert "7654" not in found.output


def test_a_table_is_of_the_parts_that_were_measured_with_its_options(tmp_path: Path) -> None:
    store_part(ServerPart("stock", "stock", {}), [CELL], 0.0, tmp_path, GpuOptions(engine={"max_num_seqs": 1}).about)
    options = ["--table", "--output", str(tmp_path), "--engine"]
    assert "7654" in CliRunner().invoke(app, [*options, "max_num_seqs=1"]).output
    assert "7654" not in CliRunner().invoke(app, [*options, "max_num_seqs=2"]).output


def test_a_part_with_failed_requests_is_measured_again(tmp_path: Path, measured: list[str]) -> None:
    for name, cell in (("stock", CELL), ("loramux", replace(CELL, failed=1))):
        store_part(ServerPart(name, name, {}), [cell], 0.0, tmp_path, GpuOptions().about)
    assert CliRunner().invoke(app, ["--output", str(tmp_path)]).exit_code == 1
    assert measured == ["loramux", "stock-without-lora", "many"]


def test_a_trial_run_has_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store_part(ServerPart("stock", "stock", {}), [CELL], 0.0, Path("gpu-results-tiny"), GpuOptions(tiny=True).about)
    assert "7654" in CliRunner().invoke(app, ["--table", "--tiny"]).output
    assert "7654" not in CliRunner().invoke(app, ["--table"]).output


@pytest.mark.engine
def test_the_whole_script_at_a_tiny_size_measures_both_servers_without_a_failure(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    only = ["--part", "stock-without-lora", "--part", "many"]  # each start of a server takes a while
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", *only, "--output", tmp_path],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| loramux: 24 adapters, skewed / uniform |" in done.stdout
    cells = [cell for path in sorted(tmp_path.glob("gpu-*.json")) for cell in json.loads(path.read_text())["cells"]]
    assert [cell["server"] for cell in cells] == ["loramux", "loramux", "stock, LoRA off"]
    assert all(cell["failed"] == 0 and cell["throughput"] > 0 and cell["tpot_p50"] > 0 for cell in cells)
