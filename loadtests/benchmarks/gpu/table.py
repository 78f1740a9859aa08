"""The table of the parts that were measured so far."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import SLOTS, TableCell
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.report_tables import markdown_table

Key = tuple[str, str]

COLUMNS = ("server", "route", "requests", "failed", "burst tok/s", "TTFT p50 ms", "TTFT p95 ms", "TPOT p50 ms")
RATIOS = ("compared", "throughput", "TTFT p50", "TPOT p50")
STOCK_WITHOUT_LORA = "stock, LoRA off"
COMPARISONS: Mapping[str, tuple[Key, Key]] = {
    "base: loramux / stock": (("loramux", "base"), ("stock", "base")),
    "1 adapter: loramux / stock": (("loramux", "1 adapter"), ("stock", "1 adapter")),
    "loramux: 1 adapter / base": (("loramux", "1 adapter"), ("loramux", "base")),
    "stock: 1 adapter / base": (("stock", "1 adapter"), ("stock", "base")),
    "stock: LoRA on but idle / off": (("stock", "base"), (STOCK_WITHOUT_LORA, "base")),
    "loramux, LoRA idle / stock, LoRA off": (("loramux", "base"), (STOCK_WITHOUT_LORA, "base")),
    **{
        f"{server}: {2 * SLOTS} adapters / {SLOTS}, on {SLOTS} slots": (
            (server, f"{2 * SLOTS} adapters"),
            (server, f"{SLOTS} adapters"),
        )
        for server in ("loramux", "stock")
    },
}


@dataclass(frozen=True)
class StoredPart:
    """A measured part and its options."""

    about: Mapping[str, Any]
    cells: Sequence[TableCell]

    def differences(self, options: Mapping[str, Any]) -> list[str]:
        """Return the names of the options that differ."""
        return [name for name, value in options.items() if self.about.get(name) != value]

    @property
    def failed(self) -> bool:
        """Whether any of its requests failed."""
        return any(cell.failed for cell in self.cells)


def read_parts(folder: Path) -> dict[str, StoredPart]:
    """Read all parts in the folder by name.

    Raises:
        LoadTestError: a file is not a part.
    """
    found = {}
    for path in sorted(folder.glob("gpu-*.json")):
        try:
            content = json.loads(path.read_text())
            cells = [TableCell(**cell) for cell in content["cells"]]
            found[path.stem.removeprefix("gpu-")] = StoredPart(dict(content["about"]), cells)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LoadTestError(f"{path} was not written by this benchmark; remove it ({error})") from error
    return found


def tables(cells: Sequence[TableCell]) -> str:
    """Return all measured cells, and the ratios whose both sides were measured, as Markdown."""
    lines = markdown_table(COLUMNS, [_line(cell) for cell in cells])
    ratios = list(_ratios({(cell.server, cell.cell): cell for cell in cells}))
    return "\n".join([*lines, "", *(markdown_table(RATIOS, ratios) if ratios else [])]) + "\n"


def _line(cell: TableCell) -> list[str]:
    times = (cell.ttft_p50, cell.ttft_p95, cell.tpot_p50)
    shown = [f"{seconds * 1000:.1f}" for seconds in times]
    return [cell.server, cell.cell, str(cell.requests), str(cell.failed), f"{cell.throughput:.0f}", *shown]


def _ratios(cells: Mapping[Key, TableCell]) -> Iterator[list[str]]:
    many = [key for key in cells if "uniform" in key[1]]
    popular = {
        f"{server}: {cell.partition(',')[0]}, skewed / uniform": (
            (server, cell.replace("uniform", "skewed")),
            (server, cell),
        )
        for server, cell in many
    }
    for label, (ours, theirs) in {**COMPARISONS, **popular}.items():
        if ours in cells and theirs in cells:
            yield [
                label,
                *(_ratio(cells[ours], cells[theirs], name) for name in ("throughput", "ttft_p50", "tpot_p50")),
            ]


def _ratio(ours: TableCell, theirs: TableCell, name: str) -> str:
    below = getattr(theirs, name)
    return f"{getattr(ours, name) / below:.3f}" if below else "-"
