"""`loramux doctor`: what this machine is, whether it can run loramux, and with which engine settings it would."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loramux_server.machine import GIB, Machine, engine_defaults, installed_backend, obstacles, this_machine


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what this machine can run. Exit status 1 if it can't run loramux, with the reasons."""
    machine, backend = this_machine(Path.cwd()), installed_backend()
    found = obstacles(machine, backend)
    settings = engine_defaults(machine, backend, demo=False)
    if as_json:
        typer.echo(json.dumps(_report(machine, backend, settings, found), indent=2))
    else:
        _show(machine, backend, settings, found)
    raise typer.Exit(1 if found else 0)


def _report(machine: Machine, backend: str, settings: dict[str, Any], found: list[str]) -> dict[str, Any]:
    facts = dataclasses.asdict(machine) | {"instructions": sorted(machine.instructions)}
    return {"can_run": not found, "obstacles": found, "backend": backend, "engine": settings, "machine": facts}


def _show(machine: Machine, backend: str, settings: dict[str, Any], found: list[str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in _rows(machine, backend, settings):
        table.add_row(f"[bold]{name}[/]", value)
    console = Console(highlight=False)
    console.print(table)
    for reason in found:
        console.print(f"[red]✗[/] {reason}", soft_wrap=True)
    if not found:
        console.print("[green]✓[/] this machine can run loramux")


def _rows(machine: Machine, backend: str, settings: dict[str, Any]) -> list[tuple[str, str]]:
    name, version = machine.libc
    gpus = [f"{gpu.name}, {gpu.memory_bytes / GIB:.0f} GiB, driver {gpu.driver}" for gpu in machine.gpus]
    return [
        ("System", f"{machine.system}, {name or 'no glibc'} {'.'.join(map(str, version))}"),
        ("Processor", f"{machine.cpu_model} ({machine.processor}), {machine.cores} cores"),
        ("Instructions", " ".join(sorted(machine.instructions)) or "none of interest"),
        ("Memory", f"{machine.memory_bytes / GIB:.1f} GiB"),
        ("Disk", f"{machine.disk_free_bytes / GIB:.1f} GiB free"),
        ("GPU", "; ".join(gpus) or "none with an NVIDIA driver"),
        ("Engine", f"vLLM for {backend.upper()}"),
        ("Settings", ", ".join(f"{key}={value}" for key, value in settings.items())),
    ]
