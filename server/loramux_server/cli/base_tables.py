"""Shows a base's modules: which of them adapters can change."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape

from loramux_adapters.base_description import BaseDescription, TargetModule
from loramux_server.cli.console import column_table, stdout


@dataclass(frozen=True)
class ModuleGroup:
    """Modules of the same name and shape, in all layers."""

    path: str
    """With `*` for the numbers of layers."""
    count: int
    inputs: int
    outputs: int
    refusal: str | None


def module_groups(base: BaseDescription) -> Iterator[ModuleGroup]:
    """Yield the base's modules, those that differ by their layers only as one."""
    counts: Counter[tuple[str, TargetModule]] = Counter()
    for path, module in base.modules.items():
        counts[re.sub(r"\.\d+(?=\.|$)", ".*", path), module] += 1
    for (path, module), count in counts.items():
        yield ModuleGroup(path, count, module.inputs, module.outputs, module.refusal)


def base_report(base: BaseDescription) -> dict[str, Any]:
    """Return the base as JSON."""
    modules = [asdict(group) for group in module_groups(base)]
    return base.spec.model_dump() | {"parameters": base.parameters, "refusal": base.refusal, "modules": modules}


def print_base(base: BaseDescription) -> None:
    """Print the base for people."""
    size = f"{base.parameters / 1e6:,.1f} million parameters"
    stdout.print(f"\n[bold]{escape(base.name)}[/]: {escape(base.spec.architecture)}, {size}", soft_wrap=True)
    if base.refusal:
        stdout.print(f"[yellow]served without adapters:[/] {escape(base.refusal)}", soft_wrap=True)
        return
    table = column_table("Module", "Count", "Shape", "Adapters")
    for group in module_groups(base):
        shape = f"{group.inputs} x {group.outputs}"
        table.add_row(escape(group.path), str(group.count), shape, "no" if group.refusal else "[green]yes[/]")
    stdout.print(table)
