"""`loramux doctor`: describe this machine, whether it can run loramux, its default engine settings, and a base."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from loramux_adapters.base_description import BaseDescription
from loramux_server.base_model import BaseError, resolve_base
from loramux_server.c_compiler import compiler_problem
from loramux_server.cli.base_tables import base_report, print_base, shown_architectures
from loramux_server.cli.console import fact_table, fail, stderr, stdout
from loramux_server.described_base import describe_base
from loramux_server.gpus import Gpu
from loramux_server.machine import (
    GIB,
    Machine,
    engine_defaults,
    explain_engine,
    find_problems,
    installed_backend,
    this_machine,
)
from loramux_server.settings import SettingsError, load_settings


def doctor(
    base: Annotated[
        str | None, typer.Option(help="Also show which modules of this base adapters can change: folder or Hub id.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print what this machine has and whether it can run loramux; exit code 1, with the reasons, if it can't.

    Exit code 2 if the base can't be served. Example: loramux doctor --base Qwen/Qwen3-4B
    """
    machine, backend = this_machine(Path.cwd()), installed_backend()
    problems = find_problems(machine, backend)
    if backend == "cuda" and (problem := compiler_problem(sys.executable)):
        problems.append(problem)
    settings = engine_defaults(machine, backend, demo=False)
    description = _describe(base) if base else None
    if as_json:
        typer.echo(json.dumps(_report(machine, backend, settings, problems, description), indent=2))
    else:
        _print_report(machine, backend, settings, problems)
        if description:
            print_base(description)
    raise typer.Exit(1 if problems else 0)


def _log(line: str) -> None:
    stderr.print(line, style="dim", markup=False)


def _describe(base: str) -> BaseDescription:
    try:
        settings = load_settings(overrides={"base": base})
        resolved = resolve_base(settings.base, settings.data_dir, revision=settings.base_revision, progress=_log)
        return describe_base(resolved, settings, _log)
    except (BaseError, SettingsError) as error:
        fail(error, 2)


def _report(
    machine: Machine, backend: str, settings: dict[str, Any], problems: list[str], base: BaseDescription | None
) -> dict[str, Any]:
    facts = dataclasses.asdict(machine) | {"instructions": sorted(machine.instructions)}
    report = {"can_run": not problems, "obstacles": problems, "backend": backend, "engine": settings, "machine": facts}
    report["backend_reason"] = explain_engine(machine, backend)
    return report | ({"base": base_report(base)} if base else {})


def _print_report(machine: Machine, backend: str, settings: dict[str, Any], problems: list[str]) -> None:
    stdout.print(fact_table(_facts(machine, backend, settings)))
    for problem in problems:
        stdout.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
    if not problems:
        stdout.print("[green]✓[/] this machine can run loramux")


def _facts(machine: Machine, backend: str, settings: dict[str, Any]) -> dict[str, str]:
    name, version = machine.libc
    return {
        "System": f"{machine.system}, {name or 'no glibc'} {'.'.join(map(str, version))}",
        "Processor": f"{machine.cpu_model} ({machine.processor}), {machine.cores} cores",
        "Instructions": " ".join(sorted(machine.instructions)) or "none of interest",
        "Memory": f"{machine.memory_bytes / GIB:.1f} GiB",
        "Disk": f"{machine.disk_free_bytes / GIB:.1f} GiB free",
        "GPU": "; ".join(map(_describe_gpu, machine.gpus)) or machine.gpu_problem or "none with an NVIDIA driver",
        "Engine": explain_engine(machine, backend),
        "Settings": ", ".join(f"{key}={value}" for key, value in settings.items()),
        "Bases": _bases(),
    }


def _describe_gpu(gpu: Gpu) -> str:
    memory = "the machine's memory" if gpu.unified else f"{gpu.memory_bytes / GIB:.0f} GiB"
    free = "" if gpu.free_bytes is None else f" ({gpu.free_bytes / GIB:.0f} GiB free)"
    return ", ".join(
        filter(None, [gpu.name, memory + free, gpu.properties, gpu.problem and f"can't be used: {gpu.problem}"])
    )


def _bases() -> str:
    shown = shown_architectures()
    engine, shapes = shown.get("engine", []), shown.get("shapes", [])
    counts = f"{len(engine)} with the engine, {len(shapes)} by their modules (docs/architectures.md)"
    return f"any that vLLM serves; shown to be right with adapters: {counts}" if shown else "any that vLLM serves"
