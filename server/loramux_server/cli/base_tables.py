"""Shows a base's modules: which of them adapters can change."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
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


def shown_architectures() -> dict[str, Any]:
    """Return the architectures that `make matrix` showed to be right in this release, and how; empty without a file."""
    path = Path(__file__).parents[1] / "architectures.json"
    shown: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return shown


def evidence(architecture: str) -> str:
    """Return how adapters of an architecture were shown to be right."""
    shown = shown_architectures()
    if architecture in shown.get("engine", ()):
        return "shown to be right with the engine, against PEFT"
    if architecture in shown.get("shapes", ()):
        return "its modules equal those of PEFT; not tried with the engine"
    return "not tried in this release"


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
    facts = {"parameters": base.parameters, "refusal": base.refusal, "evidence": evidence(base.spec.architecture)}
    return base.spec.model_dump() | facts | {"modules": modules}


def print_base(base: BaseDescription) -> None:
    """Print the base for people."""
    size = f"{base.parameters / 1e6:,.1f} million parameters"
    stdout.print(f"\n[bold]{escape(base.name)}[/]: {escape(base.spec.architecture)}, {size}", soft_wrap=True)
    if base.refusal:
        stdout.print(f"[yellow]served without adapters:[/] {escape(base.refusal)}", soft_wrap=True)
        return
    stdout.print(f"Adapters: {evidence(base.spec.architecture)}", soft_wrap=True)
    table = column_table("Module", "Count", "Shape", "Adapters")
    for group in module_groups(base):
        shape = f"{group.inputs} x {group.outputs}"
        table.add_row(escape(group.path), str(group.count), shape, "no" if group.refusal else "[green]yes[/]")
    stdout.print(table)
