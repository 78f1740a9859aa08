"""The table of the parts that were measured so far."""

from collections.abc import Iterable, Iterator, Mapping

from benchmarks.gpu.checks import CheckResult
from benchmarks.gpu.gaps import GapCell
from benchmarks.gpu.parts import SLOTS, TableCell
from benchmarks.gpu.stored import StoredPart
from loramux_loadtests.report_tables import markdown_table

Key = tuple[str, str]

COLUMNS = ("server", "route", "requests", "failed", "burst tok/s", "TTFT p50 ms", "TTFT p95 ms", "TPOT p50 ms")
CHECK_COLUMNS = ("check", "server", "result", "measured")
GAP_COLUMNS = ("server", "loads", "median gap ms", "longest gap in a load ms", "worst ms", "longest gap without ms")
HEADER_LINES = 2
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


def tables(parts: Iterable[StoredPart]) -> str:
    """Return as Markdown: all checks, cells and gaps, and the ratios whose both sides were measured."""
    parts = list(parts)
    cells = [cell for part in parts for cell in part.cells]
    found = [
        markdown_table(CHECK_COLUMNS, [_check(each) for part in parts for each in part.checks]),
        markdown_table(COLUMNS, [_line(cell) for cell in cells]),
        markdown_table(RATIOS, list(_ratios({(cell.server, cell.cell): cell for cell in cells}))),
        markdown_table(GAP_COLUMNS, [_gaps(each) for part in parts for each in part.gaps]),
    ]
    return "\n".join("\n".join([*lines, ""]) for lines in found if len(lines) > HEADER_LINES)


def _check(check: CheckResult) -> list[str]:
    result = {True: "passed", False: "FAILED", None: "-"}[check.passed]
    return [check.check, check.server, result, " ".join(check.measured.replace("|", r"\|").split())]


def _gaps(cell: GapCell) -> list[str]:
    times = (cell.usual, cell.loading, cell.worst, cell.warm)
    return [cell.server, str(cell.loads), *(f"{seconds * 1000:.1f}" for seconds in times)]


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
