"""`loramux doctor`: describe this machine, whether it can run loramux, its default engine settings, and a base."""

import dataclasses
import json
import re
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
from loramux_server.cli.plan_tables import print_plan
from loramux_server.described_base import describe_base
from loramux_server.engine.lora_ranks import max_lora_rank
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
from loramux_server.planning.device import Device
from loramux_server.planning.engine_arguments import plan_machine
from loramux_server.planning.plan import Wanted, plan_memory
from loramux_server.planning.report import plan_report
from loramux_server.settings import SettingsError, load_settings


def doctor(
    base: Annotated[
        str | None,
        typer.Option(
            help="Also show the modules of this base that adapters can change, and plan it: folder or Hub id."
        ),
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, max=4096, help="Plan for another GPU, with this memory in GiB.")
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="Its compute capability, such as 8.9.", show_default="unknown")
    ] = None,
    rank: Annotated[
        list[int] | None, typer.Option(min=1, max=512, help="Rank of the adapters; can be repeated.", show_default="16")
    ] = None,
    adapters: Annotated[int | None, typer.Option(min=1, help="Number of adapters.")] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of context that must fit.", show_default="what fits")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests that must run at a time, each with the whole context.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print what this machine has and whether it can run loramux; exit code 1, with the reasons, if it can't.

    With --base, also print what fits on this machine's GPU, or on the one of --gpu-memory: exit code 1 if the base does
    not, 2 if vLLM can't serve it. Weights are not downloaded for that. Example: loramux doctor --base Qwen/Qwen3-4B
    --gpu-memory 24
    """
    wanted = Wanted(max_lora_rank(rank or []), adapters, context, requests)
    device = _device(gpu_memory, compute_capability, has_base=base is not None)
    machine, backend = this_machine(Path.cwd()), installed_backend()
    problems = find_problems(machine, backend)
    if backend == "cuda" and (problem := compiler_problem(sys.executable)):
        problems.append(problem)
    settings = engine_defaults(machine, backend, demo=False)
    description = _describe(base) if base else None
    plan = _plan(machine, description, wanted, device)
    if as_json:
        report = _report(machine, backend, settings, problems, description)
        typer.echo(json.dumps(report | ({"plan": plan} if plan else {}), indent=2))
    else:
        _print_report(machine, backend, settings, problems)
        if description:
            print_base(description)
            _print_plan(description, plan)
    raise typer.Exit(1 if problems or (plan and plan["problems"]) else 0)


def _device(gpu_memory: float | None, compute_capability: str | None, *, has_base: bool) -> Device | None:
    """Return the GPU of the options; None for the one of this machine."""
    if gpu_memory is None:
        if compute_capability is not None:
            fail("--compute-capability belongs to --gpu-memory", 2)
        return None
    if not has_base:
        fail("--gpu-memory plans a base: name it with --base", 2)
    size = int(gpu_memory * GIB)
    return Device("a GPU", size, size, _capability(compute_capability))


def _capability(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    numbers = re.fullmatch(r"([0-9]{1,2})\.([0-9]{1,2})", text)
    if numbers is None:
        fail(f"--compute-capability is {text!r}; expected two numbers, such as 8.9", 2)
    return int(numbers[1]), int(numbers[2])


def _plan(
    machine: Machine, base: BaseDescription | None, wanted: Wanted, device: Device | None
) -> dict[str, Any] | None:
    if base is None or base.memory is None:
        return None
    host = machine.memory_bytes
    plan = plan_memory(device, base, base.memory, wanted, host) if device else plan_machine(machine, base, wanted)
    return plan_report(plan, host) if plan else None


def _print_plan(base: BaseDescription, plan: dict[str, Any] | None) -> None:
    if plan:
        print_plan(plan)
    elif base.memory is None:
        stdout.print(f"\nNo plan: vLLM can't say what it takes: {escape(base.memory_problem or '')}", soft_wrap=True)
    else:
        stdout.print("\nNo GPU that can be planned; for another one, add --gpu-memory 24")


def _log(line: str) -> None:
    stderr.print(line, style="dim", markup=False)


def _describe(base: str) -> BaseDescription:
    try:
        settings = load_settings(overrides={"base": base})
        resolved = resolve_base(
            settings.base, settings.data_dir, revision=settings.base_revision, progress=_log, with_weights=False
        )
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
    if not gpu.memory_bytes:
        memory = "memory not known"
    free = "" if gpu.free_bytes is None else f" ({gpu.free_bytes / GIB:.0f} GiB free)"
    return ", ".join(
        filter(
            None,
            [
                gpu.name,
                memory + free,
                gpu.properties,
                gpu.problem and f"can't be used: {gpu.problem}",
                gpu.doubt and f"can't be planned: {gpu.doubt}",
            ],
        )
    )


def _bases() -> str:
    shown = shown_architectures()
    engine, shapes = shown.get("engine", []), shown.get("shapes", [])
    counts = f"{len(engine)} with the engine, {len(shapes)} by their modules (docs/architectures.md)"
    return f"any that vLLM serves; shown to be right with adapters: {counts}" if shown else "any that vLLM serves"
