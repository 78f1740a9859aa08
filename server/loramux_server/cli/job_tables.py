"""What `loramux finetune` prints for people."""

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loramux_server.cli.adapter_tables import headed

Row = Mapping[str, Any]

out = Console(highlight=False)


def jobs(page: Row) -> None:
    """Print jobs, one a line."""
    if not page["data"]:
        out.print("no jobs: `loramux finetune create train.jsonl` makes one")
        return
    table = headed("job", "status", "step", "loss", "model", "created")
    for job in page["data"]:
        ours = job["loramux"]
        steps = f"{ours['step']:,}/{ours['steps']:,}" if ours["steps"] else ""
        loss = "" if ours["loss"] is None else f"{ours['loss']:.3f}"
        table.add_row(job["id"], job["status"], steps, loss, escape(ours["model"]), moment(job["created_at"]))
    out.print(table)


def created(job: Row, url: str) -> None:
    """Print one job, and what to do next."""
    ours = job["loramux"]
    facts = {
        "job": job["id"],
        "status": job["status"],
        "model": ours["model"],
        "hyperparameters": ", ".join(f"{key} {value}" for key, value in job["hyperparameters"].items()),
        "progress": pace(ours),
        "trained": _share(ours),
        "cost": ", ".join(f"${cost:.4f} by {way.replace('_', ' ')}" for way, cost in ours["cost"].items() if cost),
        "result files": ", ".join(job["result_files"]),
        "error": (job["error"] or {}).get("message", ""),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            table.add_row(f"[bold]{name}[/]", escape(str(value)))
    out.print(table)
    if ours["trial"]:
        out.print(f"\n[bold]{escape(ours['trial']['sentence'])}[/]")
    if job["status"] == "succeeded":
        out.print("\nAsk it:\n")
        print(_question(job["fine_tuned_model"], url))  # noqa: T201 - not wrapped, so that it can be copied
    elif job["status"] in {"validating_files", "queued", "running"}:
        out.print(f"\nFollow it: loramux finetune wait {job['id']}")


def estimated(plan: Row) -> None:
    """Print what a job would be."""
    report, guess, cost = plan["report"], plan["estimate"], plan["cost"]
    recipe = {key: value for key, value in plan["recipe"].items() if value is not None}
    facts = {
        "examples": f"{report['examples']:,}, {report['tokens']:,} tokens, {report['trained_tokens']:,} learned",
        "lengths": f"{report['shortest']:,} to {report['longest']:,} tokens, half of them up to {report['median']:,}",
        "validation": f"{plan['validation_report']['examples']:,} examples" if plan["validation_report"] else "",
        "training": f"{guess['steps']:,} steps, {guess['tokens']:,} tokens",
        "time": f"about {guess['seconds'] / 60:.1f} minutes, {guess['assumption']}",
        "cost": ", ".join(f"${dollars:.4f} by {way.replace('_', ' ')}" for way, dollars in cost.items() if dollars),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            table.add_row(f"[bold]{name}[/]", escape(value))
    out.print(table)
    overlap = [f"{plan['overlap']} validation prompts are in the training file too"] if plan["overlap"] else []
    for warning in [*report["warnings"], *overlap]:
        out.print(escape(warning), style="yellow")


def events(page: Row) -> None:
    """Print what happened, the oldest first."""
    for event in reversed(page["data"]):
        style = {"warn": "yellow", "error": "red"}.get(event["level"], "")
        out.print(f"{moment(event['created_at'])}  {escape(event['message'])}", style=style or None)


def pace(ours: Row) -> str:
    """How it goes, in a few words."""
    parts = []
    if ours["loss"] is not None:
        parts.append(f"loss {ours['loss']:.3f}")
    if ours["validation_loss"] is not None:
        parts.append(f"validation {ours['validation_loss']:.3f}")
    if ours["tokens_per_second"]:
        parts.append(f"{ours['tokens']:,} tokens, {ours['tokens_per_second']:,.0f} a second")
    if ours["seconds_left"]:
        parts.append(f"{ours['seconds_left']:.0f} s left")
    return ", ".join(parts)


def moment(seconds: float) -> str:
    """Return a time as people of this machine read it."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _share(ours: Row) -> str:
    if not ours["trained_share"]:
        return ""
    return f"{ours['trained_parameters']:,} parameters, {ours['trained_share']:.2%} of the base's, on {ours['device']}"


def _question(model: str, url: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64})
    json_type = "-H 'Content-Type: application/json'"
    return f"curl -s {url.rstrip('/')}/v1/chat/completions {json_type} -d {shlex.quote(body)}"
