from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.parts import ServerPart, TableCell, all_parts, store_part
from benchmarks.gpu.table import COMPARISONS, read_parts, tables
from loramux_loadtests.loadtest.errors import LoadTestError


def cell(server: str, name: str, **changes: Any) -> TableCell:
    plain = {
        "requests": 10,
        "failed": 0,
        "throughput": 100.0,
        "ttft_p50": 0.1,
        "ttft_p95": 0.2,
        "tpot_p50": 0.01,
    }
    return TableCell(server, name, **{**plain, **changes})


def test_every_ratio_has_its_cells_among_the_parts() -> None:
    measured = {
        (part.server if part.lora else "stock, LoRA off", name)
        for part in all_parts(1000).values()
        for name in part.cells
    }
    assert {key for pair in COMPARISONS.values() for key in pair} <= measured
    assert {("loramux", "1000 adapters, uniform"), ("loramux", "1000 adapters, skewed")} <= measured


def test_a_ratio_is_the_first_named_over_the_second() -> None:
    shown = tables([cell("loramux", "base", throughput=98.0, ttft_p50=0.11), cell("stock", "base")])
    assert "| base: loramux / stock | 0.980 | 1.100 | 1.000 |" in shown
    assert "| loramux | base | 10 | 0 | 98 | 110.0 | 200.0 | 10.0 |" in shown
    assert "1 adapter" not in shown


def test_skewed_is_compared_with_uniform_for_any_number_of_adapters() -> None:
    cells = [
        cell("loramux", f"24 adapters, {how}", throughput=tokens) for how, tokens in (("uniform", 50), ("skewed", 75))
    ]
    assert "| loramux: 24 adapters, skewed / uniform | 1.500 |" in tables(cells)


def test_results_of_several_calls_is_one_table(tmp_path: Path) -> None:
    for server in ("stock", "loramux"):
        store_part(ServerPart(server, server, {}), [cell(server, "base")], 0.0, tmp_path, {"machine": "one"})
    found = read_parts(tmp_path)
    assert [(name, each.cells, each.about) for name, each in found.items()] == [
        (server, [cell(server, "base")], {"machine": "one"}) for server in ("loramux", "stock")
    ]


def test_zero_is_no_divisor() -> None:
    shown = tables([cell("loramux", "base"), cell("stock", "base", throughput=0.0, ttft_p50=0.0)])
    assert "| base: loramux / stock | - | - | 1.000 |" in shown


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"cells": 1}', '{"cells": [{"server": "x"}]}', '{"cells": []}', "\x00"]
)
def test_a_file_that_is_not_a_part_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "gpu-stock.json").write_text(content)
    with pytest.raises(LoadTestError, match=r"gpu-stock.json was not written by this benchmark"):
        read_parts(tmp_path)
