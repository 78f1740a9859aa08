from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.checks import CheckResult
from benchmarks.gpu.gaps import GapCell
from benchmarks.gpu.parts import TableCell, all_parts
from benchmarks.gpu.stored import StoredPart, read_parts, store_part
from benchmarks.gpu.table import COMPARISONS, tables
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


def table_of(*cells: TableCell) -> str:
    """Return the tables of one part with these cells."""
    return tables([StoredPart({}, cells)])


def test_every_ratio_has_its_cells_among_the_parts() -> None:
    measured = {
        (part.server if part.lora else "stock, LoRA off", name)
        for part in all_parts(1000).values()
        for name in part.cells
    }
    assert {key for pair in COMPARISONS.values() for key in pair} <= measured
    assert {("loramux", "1000 adapters, uniform"), ("loramux", "1000 adapters, skewed")} <= measured


def test_a_ratio_is_the_first_named_over_the_second() -> None:
    shown = table_of(cell("loramux", "base", throughput=98.0, ttft_p50=0.11), cell("stock", "base"))
    assert "| base: loramux / stock | 0.980 | 1.100 | 1.000 |" in shown
    assert "| loramux | base | 10 | 0 | 98 | 110.0 | 200.0 | 10.0 |" in shown
    assert "1 adapter" not in shown


def test_skewed_is_compared_with_uniform_for_any_number_of_adapters() -> None:
    cells = [
        cell("loramux", f"24 adapters, {how}", throughput=tokens) for how, tokens in (("uniform", 50), ("skewed", 75))
    ]
    assert "| loramux: 24 adapters, skewed / uniform | 1.500 |" in table_of(*cells)


def test_results_of_several_calls_is_one_table(tmp_path: Path) -> None:
    for server in ("stock", "loramux"):
        store_part(server, StoredPart({"machine": "one"}, [cell(server, "base")]), 0.0, tmp_path)
    found = read_parts(tmp_path)
    assert [(name, each.cells, each.about) for name, each in found.items()] == [
        (server, [cell(server, "base")], {"machine": "one"}) for server in ("loramux", "stock")
    ]


def test_zero_is_no_divisor() -> None:
    shown = table_of(cell("loramux", "base"), cell("stock", "base", throughput=0.0, ttft_p50=0.0))
    assert "| base: loramux / stock | - | - | 1.000 |" in shown


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"cells": 1}', '{"cells": [{"server": "x"}]}', '{"cells": []}', "\x00"]
)
def test_a_file_that_is_not_a_part_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "gpu-stock.json").write_text(content)
    with pytest.raises(LoadTestError, match=r"gpu-stock.json was not written by this benchmark"):
        read_parts(tmp_path)


CHECKS = [
    CheckResult("the same tokens", "loramux", True, "0.01 nats"),
    CheckResult("NaN harms nobody", "loramux", False, "2 of 12\nrounds | changed"),
    CheckResult("NaN harms nobody", "stock", None, "6 of 12"),
]


def test_checks_and_gaps_are_stored_and_shown(tmp_path: Path) -> None:
    gaps = [GapCell("loramux", loads=6, usual=0.01, loading=0.015, worst=0.02, warm=0.012)]
    store_part("correct", StoredPart({}, (), gaps, CHECKS), 0.0, tmp_path)
    part = read_parts(tmp_path)["correct"]
    assert (part.checks, part.gaps, part.failed) == (CHECKS, gaps, True)
    shown = tables([part])
    assert "| the same tokens | loramux | passed | 0.01 nats |" in shown
    assert "| NaN harms nobody | stock | - | 6 of 12 |" in shown
    assert r"| NaN harms nobody | loramux | FAILED | 2 of 12 rounds \| changed |" in shown
    assert "| loramux | 6 | 10.0 | 15.0 | 20.0 | 12.0 |" in shown


def test_a_negative_control_is_no_failure() -> None:
    assert not StoredPart({}, checks=[CHECKS[0], CHECKS[2]]).failed


def test_nothing_measured_is_no_table() -> None:
    assert tables([StoredPart({})]) == ""
