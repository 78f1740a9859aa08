"""Shows the plan of a GPU's memory."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from loramux_server.cli.console import column_table, fact_table, stdout
from loramux_server.planning.problems import gib


def print_plan(report: Mapping[str, Any]) -> None:
    """Print a `plan_report` for people."""
    gpu = report["gpu"]
    count = f"{gpu['count']} x " if gpu["count"] > 1 else ""
    capability = f", compute capability {gpu['compute_capability']}" if gpu["compute_capability"] else ""
    free = "" if gpu["free_bytes"] == gpu["memory_bytes"] else f", {gib(gpu['free_bytes'])} of it free"
    title = f"{count}{gpu['name']} with {gib(gpu['memory_bytes'])}{free}{capability}"
    stdout.print(f"\n[bold]Plan for {escape(title)}[/]", soft_wrap=True)
    table = column_table("Part", "Size", "")
    for name, size, note in _parts(report):
        table.add_row(name, gib(size), escape(note))
    stdout.print(table)
    stdout.print(fact_table(_facts(report)))
    for problem in report["problems"]:
        stdout.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
    for help_ in report["advice"]:
        stdout.print(f"[yellow]→[/] what would help: {escape(help_)}", soft_wrap=True)
    if not report["problems"]:
        stdout.print(f"[green]✓[/] it fits, with a context of {report['context']:,} tokens")


def _parts(report: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    sizes, slots = report["sizes"], report["slots"]
    form = f"{report['quantization']} weights, " if report["quantization"] else ""
    per_slot = f"{slots} x {gib(report['slot_bytes'])}, ranks up to {report['max_lora_rank']}" if slots else "none"
    return [
        ("Weights", sizes["weights"], f"{form}{report['dtype']}"),
        ("LoRA slots", sizes["slots"], per_slot),
        ("Activations", sizes["activations"], "estimate"),
        ("CUDA graphs", sizes["cuda_graphs"], "estimate"),
        ("Libraries", sizes["libraries"], "estimate"),
        ("KV cache", max(0, sizes["kv_cache"]), f"{report['kv_bytes_per_token'] / 1024:,.0f} KiB per token"),
        ("Engine", sizes["engine"], f"gpu_memory_utilization={report['engine']['gpu_memory_utilization']:g}"),
    ]


def _facts(report: Mapping[str, Any]) -> dict[str, str]:
    size = f"batches of 8 examples with {report['training_example_tokens']} tokens"
    training = "\n".join([f"{size}:", *map(_training, report["training"])]) if report["training"] else ""
    if not report["fits"]:
        return {"Training": training}
    requests, host = report["concurrent_requests"], report["host"]
    slots = f"{host['adapters']} adapters of {gib(host['adapter_bytes'])}; others are read when they are needed"
    return {
        "Context": f"{report['context']:,} of {report['max_context']:,} tokens",
        "Requests": f"{requests['typical']} with {requests['typical_tokens']:,} tokens at a time, "
        f"{requests['whole_context']} with the whole context",
        "Host memory": slots if report["slots"] else "",
        "serve sets": "\n".join(f"LORAMUX_ENGINE__{name.upper()}={value}" for name, value in report["engine"].items()),
        "Training": training,
    }


def _training(need: Mapping[str, Any]) -> str:
    where = "does not fit" if need["fits"] == "nowhere" else f"fits {need['fits']}"
    return f"{gib(need['required_bytes'])}: {need['method']}; {where}"
