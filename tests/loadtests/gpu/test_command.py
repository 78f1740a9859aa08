"""What the script does around the measuring, and the whole of it at a tiny size, on the real engine of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from loramux_loadtests.gpu.command import main
from loramux_loadtests.gpu.parts import Part, keep

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "loadtests" / "gpu" / "run.py"

app = typer.Typer()
app.command()(main)


def test_a_part_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["--tiny", "--part", "stok", "--output", str(tmp_path)])
    assert found.exit_code == 2
    assert "there is no part stok: there is loramux, stock, stock-without-lora, many" in " ".join(found.output.split())


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    keep(Part("stock", "stock", {}), [], 0.0, tmp_path, {})
    before = (tmp_path / "gpu-stock.json").read_bytes()
    assert CliRunner().invoke(app, ["--tiny", "--part", "stock", "--output", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "gpu-stock.json").read_bytes() == before


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
