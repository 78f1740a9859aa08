"""`loramux doctor`: describe this machine, whether it can run loramux, and its default engine settings."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from loramux_server.cli.console import fact_table, stdout
from loramux_server.machine import GIB, Machine, engine_defaults, find_problems, installed_backend, this_machine


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print what this machine has and whether it can run loramux; exit code 1, with the reasons, if it can't."""
    machine, backend = this_machine(Path.cwd()), installed_backend()
    problems = find_problems(machine, backend)
    settings = engine_defaults(machine, backend, demo=False)
    if as_json:
        typer.echo(json.dumps(_report(machine, backend, settings, problems), indent=2))
    else:
        _print_report(machine, backend, settings, problems)
    raise typer.Exit(1 if problems else 0)


def _report(machine: Machine, backend: str, settings: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    facts = dataclasses.asdict(machine) | {"instructions": sorted(machine.instructions)}
    return {"can_run": not problems, "obstacles": problems, "backend": backend, "engine": settings, "machine": facts}


def _print_report(machine: Machine, backend: str, settings: dict[str, Any], problems: list[str]) -> None:
    stdout.print(fact_table(_facts(machine, backend, settings)))
    for problem in problems:
        stdout.print(f"[red]✗[/] {problem}", soft_wrap=True)
    if not problems:
        stdout.print("[green]✓[/] this machine can run loramux")


def _facts(machine: Machine, backend: str, settings: dict[str, Any]) -> dict[str, str]:
    name, version = machine.libc
    gpus = [f"{gpu.name}, {gpu.memory_bytes / GIB:.0f} GiB, driver {gpu.driver}" for gpu in machine.gpus]
    return {
        "System": f"{machine.system}, {name or 'no glibc'} {'.'.join(map(str, version))}",
        "Processor": f"{machine.cpu_model} ({machine.processor}), {machine.cores} cores",
        "Instructions": " ".join(sorted(machine.instructions)) or "none of interest",
        "Memory": f"{machine.memory_bytes / GIB:.1f} GiB",
        "Disk": f"{machine.disk_free_bytes / GIB:.1f} GiB free",
        "GPU": "; ".join(gpus) or "none with an NVIDIA driver",
        "Engine": f"vLLM for {backend.upper()}",
        "Settings": ", ".join(f"{key}={value}" for key, value in settings.items()),
    }
